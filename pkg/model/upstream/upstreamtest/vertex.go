package upstreamtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const cloudScope = "https://www.googleapis.com/auth/cloud-platform"

// Vertex simulates a token service and the part of Vertex AI with the vendor's
// models, in one server.
type Vertex struct {
	*Cloud
	ServiceAccount string        // the JSON file
	TokenLife      time.Duration // lifetime of tokens that are issued from now on

	key   *rsa.PrivateKey
	email string

	mu     sync.Mutex
	tokens map[string]time.Time // guarded by mu: issued tokens and their expiry
}

// NewVertex starts the server of one project and region.
func NewVertex(t *testing.T, project, region string, model http.Handler) *Vertex {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v := &Vertex{key: key, email: "games@" + project + ".iam.gserviceaccount.com", TokenLife: time.Hour, tokens: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", v.token)
	path := regexp.MustCompile("^/v1/projects/" + project + "/locations/" + region + "/publishers/anthropic/models/([^/:]+):(rawPredict|streamRawPredict)$")
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { v.predict(w, r, path, model) })
	v.Cloud = serve(t, mux)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": project, "client_email": v.email, "private_key_id": "key-1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"token_uri":   v.URL + "/token",
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	v.ServiceAccount = string(file)
	return v
}

// Tokens returns the number of issued tokens.
func (v *Vertex) Tokens() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.tokens)
}

// Forget invalidates every issued token.
func (v *Vertex) Forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for t := range v.tokens {
		v.tokens[t] = time.Time{}
	}
}

func (v *Vertex) token(w http.ResponseWriter, r *http.Request) {
	err := r.ParseForm()
	if err == nil && r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		err = errors.New("unknown grant_type")
	}
	if err == nil {
		err = v.checkAssertion(r.PostForm.Get("assertion"), time.Now())
	}
	if err != nil {
		v.refuse("token: " + err.Error())
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": err.Error()})
		return
	}
	token := "ya29." + rand.Text() + rand.Text()
	v.mu.Lock()
	life := v.TokenLife
	v.tokens[token] = time.Now().Add(life)
	v.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"access_token": token, "expires_in": int(life.Seconds()), "token_type": "Bearer"})
}

// checkAssertion verifies a JWT according to RFC 7523 and Google's documentation
// of service accounts.
func (v *Vertex) checkAssertion(assertion string, now time.Time) error {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return errors.New("no JWT")
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			return err
		}
		raw[i] = b
	}
	var header struct{ Alg, Typ, Kid string }
	var claims struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	if err := errors.Join(json.Unmarshal(raw[0], &header), json.Unmarshal(raw[1], &claims)); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	switch {
	case header.Alg != "RS256" || header.Typ != "JWT" || header.Kid != "key-1":
		return fmt.Errorf("header %+v", header)
	case rsa.VerifyPKCS1v15(&v.key.PublicKey, crypto.SHA256, sum[:], raw[2]) != nil:
		return errors.New("the signature is wrong")
	case claims.Iss != v.email || claims.Aud != v.URL+"/token" || claims.Scope != cloudScope:
		return fmt.Errorf("claims %+v", claims)
	case claims.Iat > now.Add(time.Minute).Unix() || claims.Exp <= now.Unix() || claims.Exp-claims.Iat > 3600+60:
		return fmt.Errorf("from %d to %d, now %d", claims.Iat, claims.Exp, now.Unix())
	}
	return nil
}

// fail answers in Google's form.
func (v *Vertex) fail(w http.ResponseWriter, status int, name, message string) {
	v.refuse(message)
	writeJSON(w, status, map[string]any{"error": map[string]any{"code": status, "message": message, "status": name}})
}

func (v *Vertex) predict(w http.ResponseWriter, r *http.Request, path *regexp.Regexp, model http.Handler) {
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	v.mu.Lock()
	end := v.tokens[token]
	v.mu.Unlock()
	m := path.FindStringSubmatch(r.URL.Path)
	_, body, err := object(r)
	switch {
	case !bearer || !time.Now().Before(end):
		v.fail(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
		return
	case r.Method != http.MethodPost || m == nil:
		v.fail(w, http.StatusNotFound, "NOT_FOUND", "no such method: "+r.URL.Path)
		return
	case err != nil || text(body["anthropic_version"]) != "vertex-2023-10-16":
		v.fail(w, http.StatusBadRequest, "INVALID_ARGUMENT", "anthropic_version: Field required")
		return
	case r.Header.Get("X-Api-Key") != "":
		v.fail(w, http.StatusBadRequest, "INVALID_ARGUMENT", "a key of another vendor came along")
		return
	}
	delete(body, "anthropic_version")
	if m[1] == "count-tokens" {
		v.ask(model, w, r, "/v1/messages/count_tokens", body)
		return
	}
	if _, ok := body["model"]; ok {
		v.fail(w, http.StatusBadRequest, "INVALID_ARGUMENT", "model: Extra inputs are not permitted")
		return
	}
	if stream := string(body["stream"]) == "true"; stream != (m[2] == "streamRawPredict") {
		v.fail(w, http.StatusBadRequest, "INVALID_ARGUMENT", "stream: not what the method says")
		return
	}
	body["model"], _ = json.Marshal(m[1])
	v.ask(model, w, r, "/v1/messages", body)
}
