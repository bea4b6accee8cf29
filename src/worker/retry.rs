//! Waits for an unreachable database, so that its restart does not lose a job's work.

use std::time::{Duration, Instant};

use backon::Retryable;
use tracing::warn;

use super::{JobControl, StopReason};
use crate::{job::JobError, retry::exponential};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Retries after temporary errors for at most `limit`, and no longer than the worker may run.
///
/// The operation must be idempotent, because a commit may have been applied although its reply was lost.
pub(super) async fn with_deadline<T, F>(
    what: &str,
    limit: Duration,
    control: &JobControl,
    attempt: impl FnMut() -> F,
) -> Result<T, JobError>
where
    F: Future<Output = Result<T, JobError>>,
{
    let start = Instant::now();
    attempt
        .retry(exponential(FIRST_PAUSE, LONGEST_PAUSE))
        .when(|error| error.is_transient() && control.why() != Some(StopReason::GiveBack))
        .adjust(|_, pause| pause.filter(|pause| start.elapsed() + *pause <= limit))
        .notify(|error, pause| warn!(%error, retry_s = pause.as_secs_f64(), "{what} failed; retrying"))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passing_errors_are_waited_out_and_others_not() {
        let away = || JobError::database("away");
        let mut left = 2;
        let found = with_deadline("test", Duration::from_secs(5), &JobControl::default(), || {
            left -= 1;
            let result = if left > 0 { Err(away()) } else { Ok(7) };
            async move { result }
        })
        .await;
        assert_eq!(found, Ok(7));
        let wrong = || async { Err::<(), _>(JobError::invalid("id", "wrong")) };
        let limit = Duration::from_secs(5);
        assert_eq!(
            with_deadline("test", limit, &JobControl::default(), wrong).await.unwrap_err().code(),
            "invalid_request"
        );
        let gone = || async { Err::<(), _>(away()) };
        assert!(with_deadline("test", Duration::ZERO, &JobControl::default(), gone).await.is_err());
    }
}
