//! What a request may say about the mask of an edit.

use super::{Inputs, JobError, KeepRest, Task};

/// Checks that at most one thing says what may change: a mask, a region, or `keep_rest`.
pub(super) fn check_mask(inputs: &Inputs, task: &Task) -> Result<(), JobError> {
    let has_mask = inputs.mask.is_some();
    let Task::Edit(params) = task else {
        let reason = format!("{} takes no mask, only an edit does", task.kind());
        return if has_mask { Err(JobError::invalid("input.mask", reason)) } else { Ok(()) };
    };
    let (has_region, finds) = (params.region.is_some(), params.keep_rest == KeepRest::Auto);
    if has_mask && has_region {
        return Err(JobError::invalid("params.region", "there is a mask as well; give one of the two"));
    }
    if (has_mask || has_region) && finds {
        let reason = "finds what changed without a mask; give a mask or a region, or this";
        return Err(JobError::invalid("params.keep_rest", reason));
    }
    if params.feather.is_some() && !has_mask && !has_region && !finds {
        let reason = "is the soft edge of a mask, and there is none; give a mask or a region as well";
        return Err(JobError::invalid("params.feather", reason));
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
}
