//! Checks the token, as a header from programs or a signed cookie from browsers, and the role that it has.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    Json as Answered,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use crate::http::{
    api::Api,
    caller::{Caller, Role},
    extract::Json,
    problem::{Answer, ApiError, Problem},
};

const COOKIE: &str = "acetate_session";
/// Seconds.
const SESSION: i64 = 30 * 24 * 3600;

/// A secret that is sent as `Authorization: Bearer ...`.
#[derive(Clone)]
pub struct ApiToken(String);

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(***)")
    }
}

impl ApiToken {
    pub fn new(token: String) -> Self {
        Self(token)
    }

    /// Compares in constant time, because both digests have the same length.
    fn is(&self, given: &str) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(given)).into()
    }

    /// The cookie's value: its expiry, signed with the token.
    fn session(&self, until: i64) -> String {
        format!("{until}.{}", hex::encode(self.sign(until)))
    }

    fn is_session(&self, cookie: &str, now: i64) -> bool {
        let Some((until, signature)) = cookie.split_once('.') else { return false };
        let Ok(until) = until.parse::<i64>() else { return false };
        let wanted = hex::encode(self.sign(until));
        bool::from(wanted.as_bytes().ct_eq(signature.as_bytes())) && until > now
    }

    fn sign(&self, until: i64) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes())
            .unwrap_or_else(|error| unreachable!("any key length works: {error}"));
        mac.update(format!("acetate session {until}").as_bytes());
        mac.finalize().into_bytes().to_vec()
    }
}

/// A token with its name and role.
#[derive(Debug, Clone)]
pub struct NamedToken {
    pub name: String,
    pub role: Role,
    pub token: ApiToken,
    /// 0: no limit of its own.
    pub requests_per_second: f64,
    /// New jobs within 24 hours. Absent: no limit.
    pub jobs_per_day: Option<u64>,
}

/// `http.token` and `http.tokens`. Without any, requests need no token.
#[derive(Debug, Clone, Default)]
pub struct ApiTokens(Arc<[NamedToken]>);

impl ApiTokens {
    pub fn new(tokens: Vec<NamedToken>) -> Self {
        Self(tokens.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &NamedToken> {
        self.0.iter()
    }

    /// Compares with all of them, so that the time does not depend on which one it is.
    fn find(&self, is: impl Fn(&ApiToken) -> bool) -> Option<&NamedToken> {
        self.0.iter().fold(None, |found, named| if is(&named.token) { Some(named) } else { found })
    }
}

/// Lets requests with a token or a session through whose role suffices.
pub async fn authorize(
    State(api): State<Api>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    route: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    let needed = Role::needed(request.method(), route.as_str());
    let allowed = identify(&api, request.headers()).and_then(|token| {
        let caller = Caller::new(token, client.ip());
        if let Some(token) = token {
            api.rates.check_token(token)?;
        }
        caller.check(needed).map(|()| caller)
    });
    match allowed {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

/// The token of a request; absent if the server needs none.
fn identify<'a>(api: &'a Api, headers: &HeaderMap) -> Answer<Option<&'a NamedToken>> {
    let tokens = &api.settings().tokens;
    if tokens.is_empty() {
        return Ok(None);
    }
    let refused = |detail: &str| ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let given = value.to_str().ok().and_then(|text| text.split_once(' '));
        return match given {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => {
                tokens.find(|token| token.is(given.trim()))
            }
            _ => None,
        }
        .map(Some)
        .ok_or_else(|| {
            refused("the token is wrong; send `Authorization: Bearer TOKEN` with a token of http.token or http.tokens")
        });
    }
    match cookie(headers) {
        Some(cookie) => tokens
            .find(|token| token.is_session(cookie, now()))
            .map(Some)
            .ok_or_else(|| refused("the session has ended; sign in again")),
        None => Err(refused("a token is required: `Authorization: Bearer TOKEN`, or POST /v1/session from a browser")),
    }
}

/// Whether this server needs a token, and whether this browser is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    pub required: bool,
    pub valid: bool,
    /// The name of the token, if the browser is signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the token may do, if the browser is signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

impl Session {
    fn of(token: Option<&NamedToken>) -> Self {
        let (name, role) = (token.map(|token| token.name.clone()), token.map(|token| token.role));
        Self { required: token.is_some(), valid: true, name, role }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The token: `http.token`, or one of `http.tokens`.
    token: String,
}

/// Show whether a token is needed
#[utoipa::path(get, path = "/v1/session", tag = "session", operation_id = "show_session", responses((status = 200, description = "The session", body = Session)), security(()))]
pub async fn session_show(State(api): State<Api>, headers: HeaderMap) -> Answered<Session> {
    Answered(match identify(&api, &headers) {
        Ok(token) => Session::of(token),
        Err(_) => Session { required: true, valid: false, name: None, role: None },
    })
}

/// Sign a browser in
///
/// Sets a cookie that is accepted instead of the token.
#[utoipa::path(post, path = "/v1/session", tag = "session", operation_id = "open_session", request_body = SignIn, security(()),
    responses((status = 200, description = "The session", body = Session), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn session_open(
    State(api): State<Api>,
    headers: HeaderMap,
    Json(given): Json<SignIn, 4096>,
) -> Answer<Response> {
    let tokens = &api.settings().tokens;
    if tokens.is_empty() {
        return Ok(Answered(Session::of(None)).into_response());
    }
    let Some(named) = tokens.find(|token| token.is(&given.token)) else {
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "the token is wrong").about("token"));
    };
    let cookie = set_cookie(&headers, &named.token.session(now() + SESSION), SESSION);
    Ok(([(header::SET_COOKIE, cookie)], Answered(Session::of(Some(named)))).into_response())
}

/// Sign a browser out
#[utoipa::path(delete, path = "/v1/session", tag = "session", operation_id = "close_session", responses((status = 204, description = "Signed out")), security(()))]
pub async fn session_close(headers: HeaderMap) -> Response {
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, set_cookie(&headers, "", 0))]).into_response()
}

fn set_cookie(headers: &HeaderMap, value: &str, lasts: i64) -> HeaderValue {
    // The proxy says whether the browser uses TLS. A browser would not send a `Secure` cookie without it.
    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts}{secure}");
    HeaderValue::from_str(&text).unwrap_or_else(|error| unreachable!("plain characters: {error}"))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_its_tokens_and_ends() {
        let (token, other) =
            (ApiToken::new("0123456789abcdef".to_owned()), ApiToken::new("another-token-123".to_owned()));
        let cookie = token.session(1000);
        assert!(!cookie.contains("0123456789abcdef"));
        assert!(token.is_session(&cookie, 999) && !token.is_session(&cookie, 1000) && !other.is_session(&cookie, 1));
        let later = cookie.replacen("1000", "9000", 1);
        for forged in [later.as_str(), "", ".", "9000.", "x.y"] {
            assert!(!token.is_session(forged, 1), "{forged}");
        }
        assert!(token.is("0123456789abcdef") && !token.is("0123456789abcdeF") && !token.is(""));
        assert_eq!(format!("{token:?}"), "ApiToken(***)");
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; acetate_session=1.2; c"));
        assert_eq!(cookie(&headers), Some("1.2"));
        headers.insert(header::COOKIE, HeaderValue::from_static("acetate_sessions=1"));
        assert_eq!(cookie(&headers), None);
    }
}
