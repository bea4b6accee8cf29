//! `acetate serve`: the API and the web UI, and optionally a worker in the same process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    StartError,
    open_files::connection_limits,
    wiring,
    worker::{deadline, waiting},
};
use crate::{
    config::{Http, LoadedConfig, TokenRole},
    database::JobStore,
    egress::WebhookPolicy,
    http::{
        self, Api, ApiParts, ApiToken, ApiTokens, Defaults, Dispatcher, HttpSettings, NamedToken, Probes, Role,
        SINGLE_TOKEN, Server, ServerMode, WebhookSecret,
    },
    image::DecodeLimits,
    job::EditParams,
    store::Trust,
    telemetry::Metrics,
    worker::{self, Liveness, ResultPlacement, Shutdown, Worker},
};

/// How often the outbox is polled without a notification.
const RELAY_EVERY: Duration = Duration::from_millis(500);
const LAST_ANSWERS: Duration = Duration::from_secs(6);

/// Serves until `shutdown`. `work`: whether this process also runs jobs; by default, it does if no queue is configured.
/// `ready` is called with the address once requests are served.
pub async fn serve_api(
    loaded: &LoadedConfig,
    work: Option<bool>,
    shutdown: &Shutdown,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), StartError> {
    let config = &loaded.config;
    let embedded = config.queue.url.is_none();
    let works = work.unwrap_or(embedded);
    let settings = settings(loaded, embedded, works)?;
    let metrics = Metrics::start().map_err(StartError::Metrics)?;
    worker::describe();
    http::describe();
    let server = bind(loaded).await?;
    let models = super::models::server_models(loaded, works)?;

    let stores = wiring::stores(config, Trust::Submitted)?;
    let queue = wiring::queue(config)?;
    let deadline = deadline(config);
    let jobs: JobStore = waiting("the job database", deadline, shutdown, || wiring::writable_job_store(config)).await?;
    waiting("the store", deadline, shutdown, || stores.own().check()).await?;
    let stop = CancellationToken::new();
    let working = match works {
        true => Some(wiring::worker(loaded, jobs.clone(), stores.clone(), queue.clone(), ResultPlacement::AsAsked)?),
        false => None,
    };
    let wake = working.as_ref().map_or_else(|| Arc::new(Notify::new()), |worker| worker.wake.clone());
    let mut helping = Vec::new();
    if !works {
        // A worker has its own relay.
        let relay = worker::relay(jobs.clone(), queue.clone(), RELAY_EVERY, wake.clone(), stop.clone());
        helping.push(tokio::spawn(relay));
    }
    if let Some(secret) = &settings.webhook_secret {
        let (policy, pause) = (settings.webhook_policy.clone(), settings.webhook_retry);
        helping.push(tokio::spawn(http::send_webhooks(jobs.clone(), policy, secret.clone(), pause, stop.clone())));
    }
    let broken = working.as_ref().map(|worker| worker.broken.clone()).unwrap_or_default();
    let unfit = working.as_ref().map(|worker| worker.unfit.clone()).unwrap_or_default();
    let liveness = Liveness::of(&queue);
    let probed = stores.clone();
    let api = Api::new(ApiParts {
        settings,
        models: Arc::new(models),
        jobs: jobs.clone(),
        stores,
        queue: queue.clone(),
        dispatch: match (embedded, works) {
            (true, false) => Dispatcher::Nobody,
            (true, true) | (false, _) => Dispatcher::Wake(wake),
        },
        probes: Probes::new(jobs.clone(), queue.clone(), probed, metrics, works, broken, shutdown.drain.clone())
            .with_unfit(Arc::new(move || unfit.reason())),
        resident: working.as_ref().map(|worker| worker.engine.resident()),
        is_dead: Arc::new(move |worker| liveness.is_dead(worker)),
        most_long: server.most_long(),
        stop: stop.clone(),
    });
    if let Some(address) = server.address() {
        info!(%address, works, "serving the API and the web UI");
        ready(address);
    }
    let answering = tokio::spawn(server.serve_api(api, stop.clone()));
    let served = tokio::select! {
        served = live(working.as_ref(), shutdown, answering, deadline) => served,
        error = jobs.lost() => Err(error.into()),
    };
    stop.cancel();
    for helper in helping {
        if tokio::time::timeout(LAST_ANSWERS, helper).await.is_err() {
            warn!("some requests did not finish in time; unfinished work is resumed later");
        }
    }
    queue.close().await;
    jobs.close().await;
    served
}

/// Runs until the worker or the server ends, or until shutdown. The server keeps serving while the worker has jobs, so
/// that clients see them end.
async fn live(
    working: Option<&Worker>,
    shutdown: &Shutdown,
    mut answering: JoinHandle<()>,
    deadline: tokio::time::Instant,
) -> Result<(), StartError> {
    let work = async {
        let Some(worker) = working else {
            shutdown.drain.cancelled().await;
            return Ok(());
        };
        match waiting("the queue", deadline, shutdown, || worker.queue.ready(Duration::ZERO)).await {
            Err(StartError::Stopped) => return Ok(()),
            ready => ready?,
        }
        for device in worker.engine.self_test().await? {
            info!(device, "device self-test passed");
        }
        Ok(worker::serve(worker, shutdown).await?)
    };
    tokio::select! {
        worked = work => worked,
        answered = &mut answering => {
            let error = match answered {
                Ok(()) => std::io::Error::other("without an error"),
                Err(error) => std::io::Error::other(error),
            };
            error!(%error, "the HTTP server stopped");
            shutdown.drain.cancel();
            Err(StartError::Server(error))
        }
    }
}

/// On an address other than localhost, everyone on the network can connect, so a token is required.
async fn bind(loaded: &LoadedConfig) -> Result<Server, StartError> {
    let settings = &loaded.config.http;
    let (bind, field) = (&settings.bind, "http.bind");
    if bind.is_empty() {
        return Err(StartError::setting(field, "is empty; give an address and port, such as 127.0.0.1:8080"));
    }
    let server = Server::bind(bind, connection_limits(settings)).await?;
    let loopback = server.address().is_some_and(|address| address.ip().is_loopback());
    if !loopback && !settings.needs_token() {
        let reason = format!(
            "`{bind}` can be reached from other machines, and no token is set; set one \
             (ACETATE__HTTP__TOKEN, for instance from `openssl rand -hex 32`), or bind to 127.0.0.1"
        );
        return Err(StartError::setting(field, reason));
    }
    Ok(server)
}

/// Whether `acetate serve` and `acetate worker` start with these settings, by what they read them with.
pub fn check_settings(loaded: &LoadedConfig) -> Result<(), StartError> {
    let config = &loaded.config;
    if !config.http.bind.is_empty() {
        Server::parse_address(&config.http.bind)?;
    }
    settings(loaded, config.queue.url.is_none(), true)?;
    wiring::worker_options(config, ResultPlacement::AsAsked)?;
    Ok(())
}

fn settings(loaded: &LoadedConfig, embedded: bool, works: bool) -> Result<HttpSettings, StartError> {
    let (config, http) = (&loaded.config, &loaded.config.http);
    let webhook_secret = match &http.webhook_secret {
        Some(secret) => Some(
            WebhookSecret::parse(secret.reveal())
                .map_err(|reason| StartError::setting("http.webhook_secret", reason))?,
        ),
        None => None,
    };
    http.check_tokens().map_err(|(setting, reason)| StartError::setting(setting, reason))?;
    check_origins(&http.cors_origins)?;
    Ok(HttpSettings {
        tokens: tokens(http),
        hosts: http.hosts.clone(),
        cors_origins: http.cors_origins.clone(),
        max_upload_bytes: http.max_upload_bytes,
        max_queued: http.max_queued,
        requests_per_second: http.requests_per_second,
        wait: http.wait(),
        webhook_secret,
        webhook_policy: WebhookPolicy::new("http.webhook_allow", &http.webhook_allow, wiring::private_cas(config)?)?,
        webhook_retry: http.webhook_retry(),
        limits: DecodeLimits::from(&config.image),
        http_inputs: config.store.http_inputs,
        defaults: defaults(loaded),
        mode: if embedded { ServerMode::Embedded } else { ServerMode::Service },
        works,
    })
}

/// `http.token`, which may do everything, and `http.tokens`.
fn tokens(settings: &Http) -> ApiTokens {
    let one = settings.token.as_ref().map(|token| NamedToken {
        name: SINGLE_TOKEN.to_owned(),
        role: Role::Operate,
        token: ApiToken::new(token.reveal().to_owned()),
        requests_per_second: 0.0,
        jobs_per_day: None,
    });
    let named = settings.tokens.iter().filter_map(|entry| {
        Some(NamedToken {
            name: entry.name.clone(),
            role: match entry.role {
                TokenRole::Read => Role::Read,
                TokenRole::Submit => Role::Submit,
                TokenRole::Operate => Role::Operate,
            },
            token: ApiToken::new(entry.token.as_ref()?.reveal().to_owned()),
            requests_per_second: entry.requests_per_second,
            jobs_per_day: Some(entry.jobs_per_day).filter(|most| *most > 0),
        })
    });
    ApiTokens::new(one.into_iter().chain(named).collect())
}

/// An origin is a scheme, a host and optionally a port; anything else would never match.
fn check_origins(origins: &[String]) -> Result<(), StartError> {
    for origin in origins {
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if !rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '*', '@', '?', '#', ' '])) {
            let reason = format!("`{origin}` is not an origin such as https://pictures.example");
            return Err(StartError::setting("http.cors_origins", reason));
        }
    }
    Ok(())
}

fn defaults(loaded: &LoadedConfig) -> Defaults {
    let settings = &loaded.config.qwen_image;
    Defaults { decompose: settings.decompose(), edit: EditParams::of(String::new(), settings.sampling()) }
}
