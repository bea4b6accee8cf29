//! Jobs that take the result of an equal one.
//!
//! [`ContentKey`] is a hash of everything that the pictures of a result depend on. A job that succeeds keeps it in its
//! row. A job with `reuse` looks for a row with its own key, copies that result's files below its own prefix, and does
//! not use the engine. The copies are its own: nothing is lost when the other job is deleted.
//!
//! Two equal jobs that run at the same time are both computed. Neither waits for the other, because a job that waits
//! has a worker's slot and nothing to do, and its neighbor may fail.

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::{debug, info};

use super::{
    JobControl, Results, Worker,
    inputs::{InputDigest, blocking, count},
    lease::still_held,
    progress::Timings,
    publish::write_manifest,
};
use crate::{
    database::{JobRow, Published},
    engine::EngineIdentity,
    job::{FileEntry, InputRef, Inputs, JobError, JobRequest, Manifest, Stage},
    store::{ObjectKey, ResultFiles, Stored},
};

/// Raised when the same parameters give other pixels than before, within one version of acetate.
const PIXELS: u32 = 1;
/// How many results with the same key are tried: the files of some may be gone.
const MOST_TRIED: u32 = 4;

/// What a job's result depends on.
pub(super) struct ContentKey {
    /// Hexadecimal.
    pub text: String,
    /// For each pipeline, the checkpoint that it was computed for.
    weights: Vec<(String, String)>,
}

/// Everything that changes the pictures of a result, or what its manifest says of them. Not part of it: the job's id,
/// its output, labels but the tenant, priority, batch, and the names of its pictures.
#[derive(Serialize)]
struct ResultIdentity<'a> {
    /// Results are never shared between tenants.
    tenant: Option<&'a str>,
    acetate: &'a str,
    pixels: u32,
    kind: &'a str,
    /// With all defaults and the seed.
    params: Value,
    inputs: Vec<&'a InputDigest>,
    mask: Option<&'a InputDigest>,
    /// Of a layer's picture as a mask, the alpha counts.
    mask_is_layer: bool,
    /// What takes the place of a layer has its size.
    is_of_layer: bool,
    models: &'a [String],
}

impl ContentKey {
    /// None if it is not known which models the engine would use.
    pub(super) async fn of(worker: &Worker, row: &JobRow, digests: &Inputs<InputDigest>) -> Option<Self> {
        let (engine, task) = (worker.engine.clone(), row.request.task.clone());
        let identity = blocking(move || Ok(engine.identity(&task))).await.ok()??;
        Some(Self { text: hashed(&row.request, digests, &identity), weights: identity.weights })
    }

    /// Whether these are the checkpoints that were used: the files of a folder may change between a look at them and
    /// their use, or after they were loaded.
    pub(super) fn is_of(&self, used: &[(String, String)]) -> bool {
        used.iter().all(|used| self.weights.contains(used))
    }
}

fn hashed(request: &JobRequest, digests: &Inputs<InputDigest>, identity: &EngineIdentity) -> String {
    let mut params = request.task.params();
    if let Some([way @ .., last]) = request.seed_parameter() {
        let parent = way.iter().fold(&mut params, |params, name| &mut params[*name]);
        parent[*last] = json!(request.seed());
    }
    let content = ResultIdentity {
        tenant: request.tenant(),
        acetate: env!("CARGO_PKG_VERSION"),
        pixels: PIXELS,
        kind: request.task.kind().as_str(),
        params,
        inputs: digests.iter().collect(),
        mask: digests.mask.as_ref(),
        mask_is_layer: request.inputs.mask.as_ref().is_some_and(InputRef::is_layer),
        is_of_layer: request.parent_layer().is_some(),
        models: &identity.models,
    };
    let json = serde_json::to_vec(&content).unwrap_or_else(|error| unreachable!("plain data: {error}"));
    hex::encode(Sha256::digest(&json))
}

/// Copies the result of an equal job. None if there is none whose files still exist.
pub(super) async fn take(
    worker: &Worker,
    results: &Results,
    row: &JobRow,
    key: &ContentKey,
    control: &JobControl,
    timings: &mut Timings,
) -> Option<Published> {
    let found = match worker.jobs.results_of(&key.text, MOST_TRIED).await {
        Ok(found) => found,
        Err(error) => {
            debug!(%error, "no equal job could be looked for");
            return None;
        }
    };
    for source in found.iter().filter(|source| source.id() != row.id()) {
        match copy(worker, results, row, source, control, timings).await {
            Ok(published) => {
                info!(from = %source.id(), "reused the result of an equal job");
                return Some(published);
            }
            Err(error) => debug!(from = %source.id(), %error, "the result of an equal job could not be reused"),
        }
    }
    None
}

async fn copy(
    worker: &Worker,
    results: &Results,
    row: &JobRow,
    source: &JobRow,
    control: &JobControl,
    timings: &mut Timings,
) -> Result<Published, JobError> {
    let missing = || JobError::InputNotFound { input: source.id().to_string() };
    let there = source.published.as_ref().ok_or_else(missing)?;
    let (store, key) = (worker.stores.at_root(there.root.as_deref())?, ObjectKey::parse(&there.manifest)?);
    let manifest = ResultFiles::published(store.clone(), key.clone()).await?.manifest;
    if manifest.job != source.id() || manifest.content_key != there.content_key {
        return Err(missing());
    }
    still_held(worker, row, control).await?;
    let copies = async {
        let total = count(manifest.files.len());
        for (index, FileEntry { name, size, sha256, .. }) in manifest.files.iter().enumerate() {
            control.reporter.at(Stage::Store, count(index), total);
            let from = Stored { key: key.sibling(name)?, size: *size, sha256: sha256.clone() };
            let to = ObjectKey::new(row.id(), row.epoch, name)?;
            results.store.verify(&results.store.copy(&store, &from, to).await?).await?;
        }
        control.reporter.at(Stage::Store, total, total);
        Ok(())
    };
    timings.measure(Stage::Store, copies).await?;
    let timings = std::mem::take(timings).into_vec();
    let mut sampling = manifest.sampling;
    sampling.iter_mut().for_each(|sampling| sampling.passes = 0);
    let from = worker.jobs.nesting(&row.request).await?;
    let copied = Manifest { reused_from: Some(source.id()), from, sampling, timings, ..manifest };
    still_held(worker, row, control).await?;
    write_manifest(results, row, copied).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::{JobId, Placement};

    fn digest(bytes: &str) -> InputDigest {
        InputDigest { sha256: bytes.to_owned(), placement: None }
    }

    fn request(kind: &str, params: &Value, more: Value) -> JobRequest {
        let mut message = json!({
            "version": 3, "id": JobId::new(), "kind": kind, "input": { "image": "s3://a/b.png" },
            "output": { "prefix": "s3://o/" }, "params": params
        });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        JobRequest::from_value(message).unwrap_or_else(|error| panic!("{params}: {error}"))
    }

    fn identity() -> EngineIdentity {
        EngineIdentity { models: vec!["m".to_owned()], weights: Vec::new() }
    }

    fn key(request: &JobRequest) -> String {
        let inputs = Inputs::named(request.task.kind(), vec![digest("a")]);
        hashed(request, &inputs, &identity())
    }

    /// Other values for every parameter.
    fn others() -> [(&'static str, Value); 26] {
        [
            ("prompt", json!("a boat")),
            ("instruction", json!("Make it green")),
            ("layers", json!(7)),
            ("resolution", json!(1024)),
            ("cfg_normalize", json!(false)),
            ("output_size", json!("model")),
            ("min_psnr", json!(20.0)),
            ("trim", json!(true)),
            ("alpha", json!("grow")),
            ("region", json!([1, 2, 3, 4])),
            ("feather", json!(3)),
            ("keep_rest", json!("auto")),
            ("drift_guard", json!(false)),
            ("layer", json!(2)),
            ("preset", json!("fast")),
            ("steps", json!(11)),
            ("cfg_scale", json!(2.0)),
            ("seed", json!(8)),
            ("count", json!(2)),
            ("seeds", json!([7, 9])),
            ("negative_prompt", json!("blurred")),
            ("sampler", json!("unipc")),
            ("sigmas", json!([1.0, 0.5, 0.0])),
            ("step_cache", json!(2)),
            ("cfg_until", json!(0.5)),
            ("loras", json!([{ "name": "ink" }])),
        ]
    }

    /// The names of the parameters of a type, by the OpenAPI document, so that a new one cannot be forgotten.
    fn names<T: utoipa::ToSchema + utoipa::PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_parameter_changes_the_key() {
        let mut keys = Vec::new();
        let mut check = |kind: &str, names: Vec<String>, base: Value, at: &str| {
            let plain = key(&request(kind, &base, json!({})));
            assert_eq!(plain, key(&request(kind, &base, json!({}))), "the id does not matter");
            keys.push(plain.clone());
            for name in names {
                let (_, other) = others().into_iter().find(|(known, _)| *known == name).unwrap_or_else(|| {
                    panic!("give `{name}` another value here, so that it is known to change the key")
                });
                let mut params = base.clone();
                params.pointer_mut(at).unwrap()[&name] = other;
                if name == "seeds" {
                    params.pointer_mut(at).unwrap().as_object_mut().unwrap().remove("seed");
                }
                // A soft edge needs something to be the edge of.
                if name == "feather" {
                    params.pointer_mut(at).unwrap()["region"] = json!([1, 2, 3, 4]);
                }
                keys.push(key(&request(kind, &params, json!({}))));
            }
        };
        let edit = json!({ "instruction": "Make it red", "seed": 7 });
        check("decompose", names::<crate::job::DecomposeParams>(), json!({ "seed": 7 }), "");
        check("edit", names::<crate::job::EditParams>(), edit.clone(), "");
        check("composite", Vec::new(), json!({}), "");
        let workflow = json!({ "decompose": { "seed": 7 }, "edits": [{ "layer": 1, "instruction": "x", "seed": 7 }] });
        let mut of_workflows = names::<crate::job::DecomposeParams>();
        of_workflows.retain(|name| !["count", "seeds"].contains(&name.as_str()));
        check("workflow", of_workflows, workflow.clone(), "/decompose");
        check("workflow", names::<crate::job::LayerEdit>(), workflow, "/edits/0");
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len() + 1, all, "only the unchanged workflow is there twice");
    }

    #[test]
    fn pictures_models_and_tenants_change_the_key_and_nothing_else_does() {
        let params = json!({ "instruction": "Make it red", "seed": 7 });
        let plain = request("edit", &params, json!({}));
        let same = json!({
            "labels": { "dataset": "x" }, "priority": 4, "output": { "prefix": "s3://p/" },
            "input": { "image": "s3://a/c.png" }
        });
        assert_eq!(key(&plain), key(&request("edit", &params, same)));
        // A seed that the id stands for is that seed.
        let drawn = request("edit", &json!({ "instruction": "Make it red" }), json!({}));
        let given = request("edit", &json!({ "instruction": "Make it red", "seed": drawn.seed() }), json!({}));
        assert_eq!(key(&drawn), key(&given));

        let with = |inputs: &Inputs<InputDigest>, request: &JobRequest| hashed(request, inputs, &identity());
        let edit = |list: &[&str]| Inputs::named(plain.task.kind(), list.iter().copied().map(digest).collect());
        let placed = InputDigest { placement: Some(Placement { x: 1, y: 2, width: 9, height: 9 }), ..digest("a") };
        let masked = Inputs { mask: Some(digest("m")), ..edit(&["a"]) };
        let mask =
            |mask: Value| request("edit", &params, json!({ "input": { "image": "s3://a/b.png", "mask": mask } }));
        let decompose =
            |image: Value| request("decompose", &json!({ "seed": 7 }), json!({ "input": { "image": image } }));
        let mut keys = vec![
            key(&decompose(json!("s3://a/b.png"))),
            key(&decompose(json!({ "job": JobId::new(), "layer": 2 }))),
            key(&plain),
            key(&request("edit", &params, json!({ "labels": { "tenant": "a" } }))),
            key(&request("edit", &params, json!({ "labels": { "tenant": "b" } }))),
            with(&edit(&["b"]), &plain),
            with(&edit(&["a", "b"]), &plain),
            with(&edit(&["b", "a"]), &plain),
            with(&Inputs::named(plain.task.kind(), vec![placed]), &plain),
            with(&masked, &mask(json!("s3://a/m.png"))),
            with(&masked, &mask(json!({ "job": JobId::new(), "layer": 2 }))),
            hashed(&plain, &edit(&["a"]), &EngineIdentity { models: vec!["n".to_owned()], ..identity() }),
        ];
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
