//! The rate limits per client and per token.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

use super::{ApiTokens, NamedToken};
use crate::http::{
    api::Api,
    problem::{Answer, ApiError},
};

/// How many clients are remembered before inactive ones are removed.
const MANY: usize = 10_000;

pub struct Rates {
    requests: Option<DefaultKeyedRateLimiter<IpAddr>>,
    /// Of tokens with a limit of their own, by their names.
    tokens: HashMap<String, DefaultDirectRateLimiter>,
}

impl Rates {
    pub fn new(requests_per_second: f64, tokens: &ApiTokens) -> Self {
        let limiter =
            |token: &NamedToken| Some((token.name.clone(), RateLimiter::direct(quota(token.requests_per_second)?)));
        Self {
            requests: quota(requests_per_second).map(RateLimiter::keyed),
            tokens: tokens.iter().filter_map(limiter).collect(),
        }
    }

    /// Counts a request of a token.
    pub fn check_token(&self, token: &NamedToken) -> Answer<()> {
        let Some(limiter) = self.tokens.get(&token.name) else { return Ok(()) };
        limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let detail = format!("more requests than requests_per_second of the token `{}` allows", token.name);
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).later(wait.as_secs() + 1)
        })
    }

    /// Counts a request; returns how long to wait if there were too many.
    fn request(&self, client: IpAddr) -> Result<(), Duration> {
        self.requests.as_ref().map_or(Ok(()), |limiter| take(limiter, client))
    }
}

pub async fn limit(
    State(api): State<Api>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match api.rates.request(client.ip()) {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            let detail = "more requests than http.requests_per_second allows";
            let refused = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
            refused.later(wait.as_secs() + 1).into_response()
        }
    }
}

fn take(limiter: &DefaultKeyedRateLimiter<IpAddr>, client: IpAddr) -> Result<(), Duration> {
    if limiter.len() > MANY {
        limiter.retain_recent();
    }
    limiter.check_key(&client).map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
}

/// Bursts of two seconds' worth are allowed.
fn quota(per_second: f64) -> Option<Quota> {
    if per_second <= 0.0 {
        return None;
    }
    let burst = (per_second * 2.0).ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
    Some(Quota::with_period(Duration::from_secs_f64(1.0 / per_second))?.allow_burst(NonZeroU32::new(burst)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_a_pause() {
        let rates = Rates::new(2.0, &ApiTokens::default());
        let (one, other): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let passed = (0..10).filter(|_| rates.request(one).is_ok()).count();
        assert_eq!(passed, 4);
        assert!(rates.request(one).unwrap_err() <= Duration::from_millis(500));
        assert!(rates.request(other).is_ok());
        assert!((0..1000).all(|_| Rates::new(0.0, &ApiTokens::default()).request(one).is_ok()));
    }
}
