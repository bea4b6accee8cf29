//! A job again, with other parameters.

use serde_json::{Map, Value, json};

use super::{JobError, JobId, JobKind, JobRequest};

/// What a preset stands for; without a preset of the job, these are its own values.
const OF_PRESETS: [&str; 6] = ["steps", "sampler", "sigmas", "step_cache", "cfg_until", "cfg_scale"];

impl JobRequest {
    /// The same request as a new job. `changes` are merged into its parameters (RFC 7396): objects field by field,
    /// `null` takes a parameter away, so that its default holds again. A new preset replaces what the request's steps,
    /// sampler and the like were, unless `changes` names them.
    ///
    /// # Errors
    /// As for a new request, with the field of the parameter.
    pub fn rerun(&self, id: JobId, changes: &Map<String, Value>) -> Result<Self, JobError> {
        let mut message: Value = serde_json::from_str(&self.to_json())
            .unwrap_or_else(|error| unreachable!("a request is an object: {error}"));
        message["id"] = json!(id);
        if message["params"].is_null() {
            message["params"] = json!({});
        }
        if let Some(params) = message["params"].as_object_mut() {
            merge(params, changes);
        }
        Self::from_value(message)
    }

    /// The name of the parameter that has the job's seed.
    pub fn seed_parameter(&self) -> Option<&'static [&'static str]> {
        match self.task.kind() {
            JobKind::Decompose | JobKind::Edit => Some(&["seed"]),
            JobKind::Workflow => Some(&["decompose", "seed"]),
            JobKind::Composite => None,
        }
    }
}

fn merge(params: &mut Map<String, Value>, changes: &Map<String, Value>) {
    if changes.contains_key("preset") {
        let lightning = params.get("preset") == Some(&json!("lightning"));
        params.retain(|name, _| !OF_PRESETS.contains(&name.as_str()) || (name == "cfg_scale" && !lightning));
    }
    // A list of seeds says how many variants there are, and their seeds.
    let named = |name: &str| changes.get(name).is_some_and(|change| !change.is_null());
    if named("seeds") {
        params.retain(|name, _| !matches!(name.as_str(), "seed" | "count"));
    } else if named("seed") || named("count") {
        params.remove("seeds");
    }
    // Noise levels of a request's own and a number of steps replace each other, too.
    let has_levels = params.get("sigmas").is_some_and(Value::is_array);
    if named("sigmas") || (has_levels && !named("steps")) {
        params.remove("steps");
    } else if named("steps") {
        params.remove("sigmas");
    }
    for (name, change) in changes {
        match (params.get_mut(name), change) {
            (_, Value::Null) => drop(params.remove(name)),
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => drop(params.insert(name.clone(), change.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: &str, params: Value) -> JobRequest {
        JobRequest::from_value(json!({
            "version": 1, "id": JobId::new(), "kind": kind, "input": { "image": "s3://in/a.png" },
            "output": { "prefix": "s3://out/" }, "params": params, "labels": { "set": "x" }, "priority": 3,
        }))
        .unwrap()
    }

    fn rerun(request: &JobRequest, changes: Value) -> Result<Value, JobError> {
        let again = request.rerun(JobId::new(), changes.as_object().unwrap())?;
        assert_ne!(again.id, request.id);
        assert_eq!((&again.inputs, &again.labels, again.priority), (&request.inputs, &request.labels, 3));
        Ok(serde_json::from_str::<Value>(&again.to_json()).unwrap()["params"].take())
    }

    #[test]
    fn only_what_is_changed_changes() {
        let job = request("decompose", json!({ "seed": 7, "steps": 20, "prompt": "a cat" }));
        assert_eq!(rerun(&job, json!({})).unwrap(), rerun(&job, json!({ "steps": 20 })).unwrap());
        let params = rerun(&job, json!({ "seed": 8, "prompt": null })).unwrap();
        assert_eq!((&params["seed"], &params["steps"], &params["prompt"]), (&json!(8), &json!(20), &json!("")));
        let error = rerun(&job, json!({ "stepz": 8 })).unwrap_err();
        assert!(error.to_string().contains("stepz"), "{error}");
    }

    #[test]
    fn a_preset_brings_its_own_values() {
        let job = request("decompose", json!({ "steps": 20, "cfg_scale": 3.0 }));
        let params = rerun(&job, json!({ "preset": "fast" })).unwrap();
        assert_eq!(
            (&params["steps"], &params["sampler"], &params["cfg_scale"]),
            (&json!(12), &json!("abm2"), &json!(3.0))
        );
        let job = request("decompose", json!({ "preset": "lightning" }));
        let params = rerun(&job, json!({ "preset": "exact", "steps": 9 })).unwrap();
        assert_eq!((&params["steps"], &params["cfg_scale"]), (&json!(9), &json!(4.0)));
    }

    #[test]
    fn seeds_and_a_seed_replace_each_other() {
        let params = |params: Value, changes: Value| rerun(&request("decompose", params), changes).unwrap();
        let seeds = params(json!({ "seed": 7, "count": 3 }), json!({ "seeds": [1, 2] }));
        assert_eq!((&seeds["seeds"], &seeds["seed"], seeds.get("count")), (&json!([1, 2]), &json!(null), None));
        let one = params(json!({ "seeds": [1, 2] }), json!({ "seed": 7 }));
        assert_eq!((one.get("seeds"), &one["seed"]), (None, &json!(7)));
        let counted = params(json!({ "seed": 7 }), json!({ "count": 3 }));
        assert_eq!((&counted["seed"], &counted["count"]), (&json!(7), &json!(3)));
        let same = params(json!({ "seeds": [1, 2] }), json!({ "steps": 9 }));
        assert_eq!(same["seeds"], json!([1, 2]));
    }

    #[test]
    fn steps_and_noise_levels_replace_each_other() {
        let params = |params: Value, changes: Value| rerun(&request("decompose", params), changes).unwrap();
        let levels = || json!({ "sigmas": [1.0, 0.5, 0.0] });
        let changed = params(json!({ "steps": 20 }), levels());
        assert_eq!((&changed["steps"], &changed["sigmas"]), (&json!(2), &levels()["sigmas"]));
        assert_eq!(params(levels(), json!({ "seed": 1 }))["steps"], 2);
        assert_eq!(params(levels(), json!({ "sigmas": [1.0, 0.0] }))["steps"], 1);
        let changed = params(levels(), json!({ "steps": 9 }));
        assert_eq!((changed.get("sigmas"), &changed["steps"]), (None, &json!(9)));
        assert_eq!(params(levels(), json!({ "sigmas": null }))["steps"], 50);
    }

    #[test]
    fn the_parts_of_a_workflow_are_merged() {
        let params = json!({ "decompose": { "layers": 3 }, "edits": [{ "layer": 2, "instruction": "Make it red" }] });
        let params = rerun(&request("workflow", params), json!({ "decompose": { "seed": 5 } })).unwrap();
        assert_eq!((&params["decompose"]["layers"], &params["decompose"]["seed"]), (&json!(3), &json!(5)));
        assert_eq!(params["edits"][0]["layer"], 2);
    }
}
