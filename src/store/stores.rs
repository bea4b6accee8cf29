//! Everything that a process reads and writes: its own store, the inputs that it may read, and the roots where results
//! may go, with one client.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    FolderStore, InputReader, ObjectKey, S3Client, S3Settings, S3Store, Store, Trust, allow::AllowList, key::INPUTS,
    location::Location, target::Target,
};
use crate::{
    egress::{TrustedOrigins, WebLimits},
    job::JobError,
};

/// The settings of `[store]`.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `s3://bucket/prefix` or `file:///folder`.
    pub url: String,
    pub s3: S3Settings,
    /// The allowed prefixes of inputs. Empty: `url`.
    pub inputs: Vec<String>,
    /// The allowed prefixes of results. Empty: `url`.
    pub outputs: Vec<String>,
    pub http_inputs: bool,
    /// Origins of inputs that may be private.
    pub http_allow: Vec<String>,
}

/// Clones share connections.
#[derive(Debug, Clone)]
pub struct Stores {
    own: Store,
    inputs: InputReader,
    outputs: Option<AllowList>,
    client: S3Client,
    /// Why the own store could not be used when it was last tried; absent if it could.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Stores {
    /// Reads the settings; nothing is opened yet ([`Store::check`] does that).
    pub fn new(settings: &StoreSettings, trust: Trust) -> Result<Self, JobError> {
        check_endpoint("store.endpoint", settings.s3.endpoint.as_deref())?;
        for bucket in settings.s3.buckets.values() {
            check_endpoint("store.buckets", bucket.endpoint.as_deref())?;
        }
        let client = S3Client::new(settings.s3.clone());
        let root = Location::parse("store.url", &settings.url)?.as_folder();
        let own = match rooted(&client, "store.url", &root)? {
            Store::Folder(folder) => Store::Folder(folder.own()),
            s3 @ Store::S3(_) => s3,
        };
        let lists = match trust {
            Trust::Local => None,
            Trust::Submitted => Some((
                // Uploaded pictures may always be read.
                AllowList::new("store.inputs", &settings.inputs, &root)?.and(inputs_of(&own)?),
                AllowList::new("store.outputs", &settings.outputs, &root)?,
            )),
        };
        let (allowed, outputs) = lists.unzip();
        let trusted = TrustedOrigins::parse("store.http_allow", &settings.http_allow)?;
        let web = settings.http_inputs.then(|| WebLimits { trusted, ..WebLimits::of(&settings.s3) });
        Ok(Self {
            own,
            inputs: InputReader::new(client.clone(), allowed, web),
            outputs,
            client,
            trouble: Arc::default(),
        })
    }

    /// The store of `store.url`.
    pub fn own(&self) -> &Store {
        &self.own
    }

    /// Tries whether the own store takes objects, which [`Stores::trouble`] then tells.
    pub async fn own_is_usable(&self) -> Result<(), JobError> {
        let result = self.own.check().await;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = result.as_ref().err().map(ToString::to_string);
        result
    }

    /// Why the own store could not be used when it was last tried after a failure.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn client(&self) -> &S3Client {
        &self.client
    }

    pub fn inputs(&self) -> &InputReader {
        &self.inputs
    }

    /// These stores for a job whose addresses the local user chose: `store.inputs` and `store.outputs` do not apply.
    pub fn of_local_user(&self) -> Self {
        Self { inputs: self.inputs.of_local_user(), outputs: None, ..self.clone() }
    }

    /// The default root of results: the own root, or the first allowed prefix.
    pub fn usual_output(&self) -> String {
        let own = self.own.root_url();
        match &self.outputs {
            Some(list) if self.results(&own).is_err() => list.first().unwrap_or(own),
            _ => own,
        }
    }

    /// The address of an uploaded picture, by the name that [`Stores::brought_name`] returns.
    pub fn brought(&self, name: &str) -> Option<String> {
        ObjectKey::brought(name).map(|key| self.own.url(&key))
    }

    /// The name of an uploaded picture; none for other addresses.
    pub fn brought_name<'a>(&self, url: &'a str) -> Option<&'a str> {
        let name = url.strip_prefix(&self.own.root_url())?.strip_prefix(INPUTS)?.strip_prefix('/')?;
        ObjectKey::brought(name).map(|_| name)
    }

    /// The key of an uploaded picture; none for other addresses.
    pub fn brought_key(&self, url: &str) -> Option<ObjectKey> {
        ObjectKey::brought(self.brought_name(url)?)
    }

    /// The store at a request's `output.prefix`.
    ///
    /// # Errors
    /// [`JobError::InputForbidden`] for an address that `store.outputs` does not allow.
    pub fn results(&self, prefix: &str) -> Result<Store, JobError> {
        let root = Location::parse("output.prefix", prefix)?.as_folder();
        if let Some(list) = &self.outputs {
            list.check(&root)?;
        }
        rooted(&self.client, "output.prefix", &root)
    }

    /// Checks that an address names something readable, without asking the store and without checking who may read it.
    pub fn check_address(field: &str, url: &str) -> Result<(), JobError> {
        Location::parse(field, url).map(drop)
    }

    /// The store at a job row's root; a row without one means [`Stores::own`]. Roots that were allowed when they were
    /// written stay readable.
    pub fn at_root(&self, result_root: Option<&str>) -> Result<Store, JobError> {
        match result_root {
            None => Ok(self.own.clone()),
            Some(url) => rooted(&self.client, "result_root", &Location::parse("result_root", url)?.as_folder()),
        }
    }
}

impl Stores {
    /// The folder or prefix that the user of this machine exports to: a path, `file:///` or `s3://`.
    pub fn target(&self, out: &str) -> Result<Target, JobError> {
        Target::at(self.client.clone(), out)
    }
}

fn inputs_of(own: &Store) -> Result<Location, JobError> {
    Location::parse("store.url", &format!("{}{INPUTS}/", own.root_url()))
}

fn rooted(client: &S3Client, field: &str, root: &Location) -> Result<Store, JobError> {
    match root {
        Location::File(path) => Ok(Store::Folder(FolderStore::in_folder(path.clone()))),
        Location::S3(root) => Ok(Store::S3(S3Store::new(client.clone(), root))),
        Location::Web(address) => {
            Err(JobError::invalid(field, format!("`{address}` cannot be written to; give s3:// or file:///")))
        }
    }
}

fn check_endpoint(field: &str, endpoint: Option<&str>) -> Result<(), JobError> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let refuse = |reason: &str| {
        Err(JobError::invalid(field, format!("{reason}; give an address such as http://127.0.0.1:3900")))
    };
    match Location::parse(field, endpoint) {
        Ok(Location::Web(address)) if address.uri().query().is_none() => Ok(()),
        Ok(Location::Web(_)) => refuse("an endpoint has no query"),
        Ok(Location::File(_) | Location::S3(_)) => refuse(&format!("`{endpoint}` is not a web address")),
        // Shown only after the check for a password.
        Err(JobError::InvalidRequest { reason, .. }) if reason.contains("has the port") => refuse(&reason),
        Err(_) => refuse("it is not a web address, or contains a user name or password"),
    }
}

impl WebLimits {
    fn of(settings: &S3Settings) -> Self {
        let deadline: Duration = settings.operation_timeout;
        Self {
            connect: settings.connect_timeout,
            read: settings.read_timeout,
            deadline,
            private_cas: settings.private_cas.clone(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> StoreSettings {
        StoreSettings {
            url: url.to_owned(),
            s3: S3Settings::default(),
            inputs: Vec::new(),
            outputs: vec!["s3://out".to_owned(), "file:///srv/out".to_owned()],
            http_inputs: false,
            http_allow: Vec::new(),
        }
    }

    #[test]
    fn results_go_only_where_they_may() {
        let stores = Stores::new(&settings("s3://own/x"), Trust::Submitted).unwrap();
        assert_eq!(stores.own().root_url(), "s3://own/x/");
        assert_eq!(stores.results("s3://out/scene").unwrap().root_url(), "s3://out/scene/");
        assert_eq!(stores.results("s3://out").unwrap().root_url(), "s3://out/");
        assert_eq!(stores.results("file:///srv/out/a b/").unwrap().root_url(), "file:///srv/out/a%20b/");
        for prefix in ["s3://own/x/", "s3://output/", "file:///srv/", "file:///srv/outer", "file:///etc"] {
            let error = stores.results(prefix).unwrap_err();
            assert!(error.code() == "input_forbidden" && error.to_string().contains("store.outputs"), "{error}");
        }
        for prefix in ["", "out", "s3://out/../own/", "https://h/x", "file:///srv/out/../x"] {
            assert_eq!(stores.results(prefix).unwrap_err().code(), "invalid_request", "{prefix}");
        }
        assert_eq!(stores.at_root(None).unwrap().root_url(), "s3://own/x/");
        assert_eq!(stores.at_root(Some("s3://earlier/y")).unwrap().root_url(), "s3://earlier/y/");
    }

    #[test]
    fn without_lists_everything_stays_under_the_own_root() {
        let bare = StoreSettings { outputs: Vec::new(), ..settings("s3://own/x") };
        let stores = Stores::new(&bare, Trust::Submitted).unwrap();
        assert!(stores.results("s3://own/x/scene").is_ok() && stores.results("s3://own/x").is_ok());
        assert!(stores.results("s3://own/xy").is_err() && stores.results("s3://own").is_err());
        assert!(stores.inputs().check("s3://own/x/in.png").is_ok());
        assert!(stores.inputs().check("s3://own/in.png").is_err());
        assert!(stores.inputs().check("file:///etc/passwd").is_err());
        assert!(Stores::new(&bare, Trust::Local).unwrap().inputs().check("file:///home/me/in.png").is_ok());
        assert!(stores.inputs().list("s3://own/x").is_ok() && stores.inputs().list("s3://own").is_err());
    }

    #[test]
    fn the_web_is_asked_only_where_that_is_set() {
        let web = |http_inputs, inputs: &[&str]| {
            let inputs = inputs.iter().map(|prefix| (*prefix).to_owned()).collect();
            let settings = StoreSettings { http_inputs, inputs, ..settings("s3://own/x") };
            let stores = Stores::new(&settings, Trust::Submitted).unwrap();
            stores.inputs().check("https://pictures.example/x.png").is_ok()
        };
        assert!(!web(false, &[]) && !web(false, &["https://pictures.example"]));
        assert!(web(true, &[]) && web(true, &["s3://in", "https://pictures.example"]));
        assert!(!web(true, &["s3://in", "https://other.example"]));
    }

    #[test]
    fn private_web_servers_are_asked_if_they_are_named() {
        let stores = |origin: &str| {
            let http_allow = vec![origin.to_owned()];
            Stores::new(&StoreSettings { http_inputs: true, http_allow, ..settings("s3://own/x") }, Trust::Submitted)
        };
        let inputs = stores("https://10.0.0.7").unwrap();
        let check = |url: &str| inputs.inputs().check(url).map_err(|error| error.to_string());
        check("https://10.0.0.7/x.png").unwrap();
        for refused in ["https://10.0.0.7:8443/x.png", "http://10.0.0.7/x.png", "https://10.0.0.8/x.png"] {
            assert!(check(refused).unwrap_err().contains("or an origin in store.http_allow"), "{refused}");
        }
        let error = stores("files.lan").unwrap_err().to_string();
        assert!(error.starts_with("store.http_allow: `files.lan` is not an origin"), "{error}");
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        for (url, endpoint, field) in [
            ("https://h/x", None, "store.url"),
            ("s3:///x", None, "store.url"),
            ("s3://b", Some("127.0.0.1:3900"), "store.endpoint"),
            ("s3://b", Some("http://me:s3cret@h"), "store.endpoint"),
            ("s3://b", Some("http://me:s3cret@h:99999"), "store.endpoint"),
            ("s3://b", Some("http://h:99999"), "store.endpoint: `http://h:99999` has the port 99999"),
        ] {
            let s3 = S3Settings { endpoint: endpoint.map(str::to_owned), ..S3Settings::default() };
            let error = Stores::new(&StoreSettings { s3, ..settings(url) }, Trust::Local).unwrap_err().to_string();
            assert!(error.starts_with(field) && !error.contains("s3cret"), "{error}");
        }
    }
}
