//! What a request may say about the mask of an edit.

use super::{EditParams, Inputs, JobError, KeepRest, Task};

/// Checks that at most one thing says what may change: a mask, a region, or `keep_rest`.
pub(super) fn check_mask(inputs: &Inputs, task: &Task) -> Result<(), JobError> {
    let has_mask = inputs.mask.is_some();
    let useless = |reason: String| if has_mask { Err(JobError::invalid("input.mask", reason)) } else { Ok(()) };
    match task {
        Task::Edit(params) => check_edit("params", params, has_mask),
        Task::Workflow(params) if params.edits.is_empty() => {
            useless("says where edits may change the layers, and the workflow has no edits".to_owned())
        }
        Task::Workflow(params) => params
            .edits
            .iter()
            .enumerate()
            .try_for_each(|(index, edit)| check_edit(&format!("params.edits[{index}]"), &edit.params(), has_mask)),
        Task::Decompose(_) | Task::Composite(_) => {
            useless(format!("{} takes no mask, only edits and workflows do", task.kind()))
        }
    }
}

fn check_edit(at: &str, params: &EditParams, has_mask: bool) -> Result<(), JobError> {
    let (has_region, finds) = (params.region.is_some(), params.keep_rest == KeepRest::Auto);
    if has_mask && has_region {
        return Err(JobError::invalid(format!("{at}.region"), "there is a mask as well; give one of the two"));
    }
    if (has_mask || has_region) && finds {
        let reason = "finds by itself what changed, so it cannot be combined with a mask or a region";
        return Err(JobError::invalid(format!("{at}.keep_rest"), reason));
    }
    if params.feather.is_some() && !has_mask && !has_region && !finds {
        let reason = "is the soft edge of a mask, and there is none; give a mask or a region as well";
        return Err(JobError::invalid(format!("{at}.feather"), reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::job::JobRequest;

    const ID: &str = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";

    #[test]
    fn masks_are_beside_the_pictures_in_version_3() {
        let message = |input: Value, params: Value| {
            let mut params = params;
            params["instruction"] = json!("x");
            let message = json!({
                "version": 3, "id": ID, "kind": "edit", "input": input, "output": { "prefix": "s3://o/" },
                "params": params
            });
            JobRequest::from_value(message)
        };
        let masked = || json!({ "images": ["s3://a/b.png", "s3://a/c.png"], "mask": { "job": ID, "layer": 1 } });
        let request = message(masked(), json!({ "feather": 4 })).unwrap();
        assert_eq!((request.inputs.len(), request.inputs.with_mask().count()), (2, 3));
        let written: Value = serde_json::from_str(&request.to_json()).unwrap();
        assert_eq!((&written["version"], &written["input"]), (&json!(3), &masked()));
        assert_eq!(JobRequest::from_stored(&request.to_json()).unwrap(), request);
        let plain = || json!({ "image": "s3://a/b.png" });
        for (params, version) in [
            (json!({}), 1),
            (json!({ "drift_guard": true, "keep_rest": "off" }), 1),
            (json!({ "drift_guard": false }), 3),
            (json!({ "keep_rest": "auto" }), 3),
            (json!({ "alpha": "keep" }), 1),
            (json!({ "alpha": "grow" }), 3),
            (json!({ "region": [1, 2, 3, 4], "sampler": "abm2" }), 3),
        ] {
            let written: Value = serde_json::from_str(&message(plain(), params).unwrap().to_json()).unwrap();
            assert_eq!(written["version"], version);
        }
        for (input, params, wanted) in [
            (masked(), json!({ "region": [1, 2, 3, 4] }), "params.region"),
            (masked(), json!({ "keep_rest": "auto" }), "params.keep_rest"),
            (plain(), json!({ "region": [1, 2, 3, 4], "keep_rest": "auto" }), "params.keep_rest"),
            (plain(), json!({ "feather": 4 }), "params.feather"),
            (masked(), json!({ "feather": 513 }), "params.feather"),
            (plain(), json!({ "region": [1, 2, 3, 0] }), "params.region"),
            (json!({ "image": "s3://a/b.png", "mask": 3 }), json!({}), "input.mask"),
        ] {
            let error = message(input, params).unwrap_err();
            assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == wanted), "{error}");
        }
    }

    #[test]
    fn the_edits_of_a_workflow_share_a_mask_and_have_regions_of_their_own() {
        let message = |mask: Value, edits: Value| {
            JobRequest::from_value(json!({
                "version": 3, "id": ID, "kind": "workflow", "input": { "image": "s3://a/b.png", "mask": mask },
                "output": { "prefix": "s3://o/" }, "params": { "edits": edits }
            }))
        };
        let edit = |more: Value| {
            let mut edit = json!({ "layer": 1, "instruction": "x" });
            edit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            edit
        };
        let mask = || json!({ "job": ID, "layer": 1 });
        for (mask, edits, version) in [
            (Value::Null, json!([edit(json!({})), edit(json!({ "drift_guard": true }))]), 1),
            (Value::Null, json!([edit(json!({})), edit(json!({ "region": [1, 2, 3, 4], "feather": 2 }))]), 3),
            (Value::Null, json!([edit(json!({ "keep_rest": "auto", "drift_guard": false }))]), 3),
            (mask(), json!([edit(json!({ "feather": 2 }))]), 3),
        ] {
            let request = message(mask, edits).unwrap();
            let written: Value = serde_json::from_str(&request.to_json()).unwrap();
            assert_eq!(written["version"], version, "{written}");
            assert_eq!(JobRequest::from_stored(&request.to_json()).unwrap(), request);
        }
        for (mask, edits, wanted) in [
            (mask(), json!([]), "input.mask"),
            (mask(), json!([edit(json!({})), edit(json!({ "region": [1, 2, 3, 4] }))]), "params.edits[1].region"),
            (mask(), json!([edit(json!({ "keep_rest": "auto" }))]), "params.edits[0].keep_rest"),
            (Value::Null, json!([edit(json!({ "feather": 2 }))]), "params.edits[0].feather"),
            (Value::Null, json!([edit(json!({ "region": [1, 2, 0, 4] }))]), "params.edits[0].region"),
        ] {
            let error = message(mask, edits).unwrap_err();
            assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == wanted), "{error}");
        }
    }
}
