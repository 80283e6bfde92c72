package docstest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the root of the repository, and the pages are in its docs.
const (
	root   = "../.."
	module = "github.com/resilienthttp/resilient"
)

// readPages returns the pages by their names.
func readPages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(root + "/docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	pages := make(map[string]string)
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		pages[name] = string(text)
	}
	return pages
}

// TestBlocks: each block of Go in a page is code of this module, which is compiled and
// run here, and each piece of code that is meant for a page is in one.
func TestBlocks(t *testing.T) {
	block := regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
	excerpts, used := readExcerpts(t), make(map[string]bool)
	for page, text := range readPages(t) {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			code := normal(m[1])
			require.Contains(t, excerpts, code, "%s: this block is no code of internal/docstest:\n%s", page, m[1])
			used[code] = true
		}
	}
	for code, name := range excerpts {
		require.True(t, used[code], "no page has the code %q", name)
	}
}

// normal returns code with single spaces, so that a page may indent it in another way.
func normal(code string) string { return strings.Join(strings.Fields(code), " ") }

// readExcerpts returns the names of the pieces of code that are meant for pages.
func readExcerpts(t *testing.T) map[string]string {
	t.Helper()
	excerpt := regexp.MustCompile(`(?ms)^\s*// docs: ([\w ]+)\n(.*?)^\s*// end\n`)
	excerpts := make(map[string]string)
	require.NoError(t, filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".go" {
			return err
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if filepath.Base(name) == "main.go" {
			excerpts[normal(string(text))] = name
		}
		for _, m := range excerpt.FindAllStringSubmatch(string(text), -1) {
			require.NotContains(t, excerpts, normal(m[2]), m[1])
			excerpts[normal(m[2])] = m[1]
		}
		return nil
	}))
	return excerpts
}

// TestLinks: each link of a page leads somewhere: a name to one that exists in its
// package, and a path to a file. Each name in brackets is a link.
func TestLinks(t *testing.T) {
	var (
		target = regexp.MustCompile(`(?m)(?:\]\(|^\[[^\]]+\]: )([^)\s]+)`)
		label  = regexp.MustCompile("(?m)^\\[(`[^\\]]+`)\\]: ")
		use    = regexp.MustCompile("\\[(`[^`\\]]+`)\\](?:[^(:]|:[^ ])")
		blocks = regexp.MustCompile("(?ms)^```.*?^```$")
	)
	anchors := make(map[string]map[string]bool) // by directory of a package
	for page, text := range readPages(t) {
		text = blocks.ReplaceAllString(text, "")
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			checkLink(t, page, m[1], anchors)
		}
		labels := make(map[string]bool)
		for _, m := range label.FindAllStringSubmatch(text, -1) {
			require.False(t, labels[m[1]], "%s: %s is given twice", page, m[1])
			labels[m[1]] = false
			require.Regexp(t, `\[`+regexp.QuoteMeta(m[1])+`\](?:[^:]|:[^ ])`, text, "%s: %s is not used", page, m[1])
		}
		for _, m := range use.FindAllStringSubmatch(text, -1) {
			require.Contains(t, labels, m[1], "%s: %s leads nowhere", page, m[1])
		}
	}
}

func checkLink(t *testing.T, page, link string, anchors map[string]map[string]bool) {
	t.Helper()
	if path, ok := strings.CutPrefix(link, "https://pkg.go.dev/"+module); ok {
		dir, name, _ := strings.Cut(path, "#")
		if anchors[dir] == nil {
			anchors[dir] = exported(t, filepath.Join(root, dir))
		}
		require.True(t, name == "" || anchors[dir][name], "%s: there is no %s", page, link)
		return
	}
	if strings.Contains(link, "://") {
		return
	}
	name, anchor, _ := strings.Cut(link, "#")
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	require.NoError(t, err, page)
	heading := strings.ReplaceAll(anchor, "-", " ")
	require.Regexp(t, `(?im)^#* ?`+heading+`$`, string(text), "%s: %s", page, link)
}

// exported returns the anchors that pkg.go.dev has for a package: for headings of its
// doc, functions, types, methods, fields, constants and variables.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files, dir)
	names := make(map[string]bool)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		for line := range strings.Lines(parsed.Doc.Text()) {
			if heading, ok := strings.CutPrefix(strings.TrimSpace(line), "# "); ok {
				names["hdr-"+strings.ReplaceAll(heading, " ", "_")] = true
			}
		}
		for _, decl := range parsed.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				names[receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					addNames(names, spec)
				}
			}
		}
	}
	return names
}

func addNames(names map[string]bool, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range s.Names {
			names[name.Name] = true
		}
	case *ast.TypeSpec:
		names[s.Name.Name] = true
		if st, ok := s.Type.(*ast.StructType); ok {
			for _, field := range st.Fields.List {
				for _, name := range field.Names {
					names[s.Name.Name+"."+name.Name] = true
				}
			}
		}
	}
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	return typ.(*ast.Ident).Name + "."
}
