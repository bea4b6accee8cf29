//! Who sends a request, and what that may do.

use std::net::IpAddr;

use axum::{
    extract::FromRequestParts,
    http::{Method, StatusCode, request::Parts},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    middleware::NamedToken,
    problem::{Answer, ApiError},
};
use crate::{database::Actor, job::JobId};

/// The name of requests to a server without tokens.
const ANONYMOUS: &str = "anonymous";
/// The name of `http.token`.
pub const SINGLE_TOKEN: &str = "token";

/// What a token may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `GET` requests.
    Read,
    /// Upload and submit, and cancel the jobs that it submitted.
    Submit,
    /// Everything.
    Operate,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Operate => "operate",
        }
    }

    /// The role that a request needs, by its method and route. What is not listed here needs the highest.
    pub fn needed(method: &Method, route: &str) -> Self {
        // Dead letters are messages of any sender.
        if route.starts_with("/v1/dead-letters") {
            return Self::Operate;
        }
        match (method, route) {
            (&Method::GET | &Method::HEAD, _) => Self::Read,
            // It returns pictures that the files' routes return, too.
            (&Method::POST, "/v1/export") => Self::Read,
            (
                &Method::POST,
                "/v1/inputs"
                | "/v1/images/edits"
                | "/v1/jobs"
                | "/v1/jobs/{id}/cancel"
                | "/api/qwen-image/decompose"
                | "/api/qwen-image/edit-layer",
            ) => Self::Submit,
            _ => Self::Operate,
        }
    }
}

/// The sender of a request that passed the token check.
#[derive(Debug, Clone)]
pub struct Caller {
    pub actor: Actor,
    pub role: Role,
    /// New jobs within 24 hours. Absent: no limit.
    pub jobs_per_day: Option<u64>,
}

impl Caller {
    /// Without a token, if the server needs none.
    pub fn new(token: Option<&NamedToken>, client: IpAddr) -> Self {
        match token {
            Some(token) => Self {
                actor: Actor::new(token.name.clone(), Some(client)),
                role: token.role,
                jobs_per_day: token.jobs_per_day,
            },
            None => Self { actor: Actor::new(ANONYMOUS, Some(client)), role: Role::Operate, jobs_per_day: None },
        }
    }

    /// The name of the token; absent for `http.token`, and without tokens.
    pub fn named(&self) -> Option<&str> {
        Some(self.actor.name()).filter(|name| ![ANONYMOUS, SINGLE_TOKEN].contains(name))
    }

    pub fn check(&self, needed: Role) -> Answer<()> {
        if self.role >= needed {
            return Ok(());
        }
        let (name, has, needs) = (self.actor.name(), self.role.as_str(), needed.as_str());
        let detail = format!("the token `{name}` has the role {has}; this request needs the role {needs}");
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// A token that may submit may cancel its own jobs.
    pub async fn may_cancel(&self, api: &Api, id: JobId) -> Answer<()> {
        if self.role >= Role::Operate {
            return Ok(());
        }
        api.job(id).await?;
        if api.jobs().is_submitted_by(id, self.actor.name()).await? {
            return Ok(());
        }
        let detail = format!(
            "job {id} was not submitted with the token `{}`; to cancel jobs of others, a token needs the role operate",
            self.actor.name()
        );
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "the sender is not known");
        parts.extensions.get::<Self>().cloned().ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_needs_the_highest_role() {
        for (method, route, role) in [
            (Method::GET, "/v1/jobs", Role::Read),
            (Method::HEAD, "/v1/jobs/{id}/files/{name}", Role::Read),
            (Method::GET, "/v1/audit", Role::Read),
            (Method::POST, "/v1/export", Role::Read),
            (Method::POST, "/v1/jobs", Role::Submit),
            (Method::POST, "/v1/inputs", Role::Submit),
            (Method::POST, "/v1/images/edits", Role::Submit),
            (Method::POST, "/v1/jobs/{id}/cancel", Role::Submit),
            (Method::POST, "/v1/jobs/{id}/retry", Role::Operate),
            (Method::DELETE, "/v1/jobs/{id}", Role::Operate),
            (Method::POST, "/v1/batches/{batch}/cancel", Role::Operate),
            (Method::GET, "/v1/dead-letters", Role::Operate),
            (Method::DELETE, "/v1/dead-letters/{id}", Role::Operate),
            (Method::POST, "/v1/anything-new", Role::Operate),
        ] {
            assert_eq!(Role::needed(&method, route), role, "{method} {route}");
        }
    }
}
