package main

import (
	"context"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/reauth"
)

// refresh asks the authority of scenario n for a token.
func (c config) refresh(ctx context.Context, _ *http.Request) (http.Header, error) {
	token, err := c.authority.token(ctx)
	return http.Header{"Authorization": {"Bearer " + token}}, err
}

// oursReauth is the transport with package reauth above it.
func oursReauth() peer {
	return peer{
		name:   "reauth over resilient",
		module: oursModule,
		only:   "n",
		client: func(base http.RoundTripper, cfg config) doer {
			return reauth.New(resilient.NewTransport(base, oursOptions(cfg)...), cfg.refresh).RoundTrip
		},
	}
}

const oauthModule = "golang.org/x/oauth2"

// oauthReauth is x/oauth2, which goes on setting the first token, above that.
func oauthReauth() peer {
	return peer{
		name:   "oauth2 over reauth over resilient",
		module: oauthModule,
		only:   "n",
		client: func(base http.RoundTripper, cfg config) doer {
			return oauth(reauth.New(resilient.NewTransport(base, oursOptions(cfg)...), cfg.refresh))
		},
	}
}

// oauthAlone is x/oauth2 above the transport.
func oauthAlone() peer {
	return peer{
		name:   "oauth2 over resilient",
		module: oauthModule,
		cannot: "sets the token until it expires",
		only:   "n",
		client: func(base http.RoundTripper, cfg config) doer {
			return oauth(resilient.NewTransport(base, oursOptions(cfg)...))
		},
	}
}

func oauth(base http.RoundTripper) doer {
	source := oauth2.ReuseTokenSource(nil, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "1"}))
	return (&oauth2.Transport{Source: source, Base: base}).RoundTrip
}

// handWrittenRefresh is the loop that users write: after a 401, a new token and once more.
func handWrittenRefresh() peer {
	return peer{
		name:   "hand-written refresh",
		module: "github.com/cenkalti/backoff/v4",
		cannot: "each call gets a token of its own after a 401, and the last one is kept",
		only:   "n",
		client: func(base http.RoundTripper, cfg config) doer {
			send := loop(base, cfg, unlimitedWaits)
			var current held[string]
			return func(req *http.Request) (*http.Response, error) {
				req = req.Clone(req.Context())
				if token := current.get(); token != "" {
					req.Header.Set("Authorization", token)
				}
				resp, err := send(req)
				if err != nil || resp.StatusCode != http.StatusUnauthorized {
					return resp, err
				}
				h, err := cfg.refresh(req.Context(), req) //nolint:contextcheck // it is the caller's
				if err != nil {
					return resp, nil //nolint:nilerr // the 401 says it
				}
				discard(resp)
				current.set(h.Get("Authorization"))
				req.Header.Set("Authorization", h.Get("Authorization"))
				return send(req)
			}
		},
	}
}
