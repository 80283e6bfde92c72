package word_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/word"
)

func TestFold(t *testing.T) {
	for _, spelled := range []string{"errorCode", "error_code", "error-code", "ErrorCode", "ERROR_CODE", "errorcode"} {
		require.Equal(t, "errorcode", word.Fold(spelled))
	}
	require.Equal(t, "x.y/z 1", word.Fold("X.Y/Z 1"), "nothing else is left out")
	require.Zero(t, testing.AllocsPerRun(10, func() {
		if word.Fold("errorcode") != "errorcode" {
			t.Fail()
		}
	}), "the common case")
}
