//! The search words of a job, derived from its request when it is accepted.

use crate::job::{BatchId, InputRef, JobRequest, LAYER_OF, Task};

/// Only the beginning of a longer text can be found.
const LONGEST: usize = 4096;

/// One lower-case line for each thing that a user may search for; a label's line is `key=value`.
pub(super) fn text(request: &JobRequest, batch: Option<&BatchId>) -> String {
    let mut lines = vec![request.id.to_string()];
    lines.extend(batch.map(BatchId::to_string));
    lines.extend(request.labels.iter().map(|(key, value)| label_line(key, value)));
    match &request.task {
        Task::Decompose(params) => lines.push(params.prompt.clone()),
        Task::Edit(params) => lines.push(params.instruction.clone()),
        Task::Composite(_) => {}
        Task::Workflow(params) => {
            lines.push(params.decompose.prompt.clone());
            lines.extend(params.edits.iter().map(|edit| edit.instruction.clone()));
        }
    }
    lines.extend(request.parent_layer().map(|parent| label_line(LAYER_OF, &parent.job.to_string())));
    lines.extend(request.inputs.iter().filter_map(file_name));
    let one_line = |line: &String| line.replace(['\n', '\0'], " ").to_lowercase();
    let text: String = lines.iter().map(|line| format!("\n{}", one_line(line))).collect();
    format!("{}\n", &text[..text.floor_char_boundary(LONGEST)])
}

/// The line in the text of every job with the label.
pub(super) fn label(key: &str, value: &str) -> String {
    format!("\n{}\n", label_line(key, value).replace(['\n', '\0'], " ").to_lowercase())
}

/// The words that must all occur; only a few, because each is searched separately.
pub(super) fn words(search: &str) -> Vec<String> {
    search.replace('\0', " ").to_lowercase().split_whitespace().take(8).map(str::to_owned).collect()
}

fn label_line(key: &str, value: &str) -> String {
    format!("{key}={value}")
}

/// The rest of an address may be private, such as a signature.
fn file_name(input: &InputRef) -> Option<String> {
    let InputRef::Url(url) = input else { return None };
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    #[test]
    fn a_job_is_found_by_what_people_remember() {
        let id = JobId::new();
        let json = serde_json::json!({
            "version": 1, "id": id, "kind": "decompose",
            "input": {"image": "https://h/a/Scene.png?signature=s3cret"}, "output": {"prefix": "s3://out/"},
            "params": {"prompt": "A red House\nby the sea"}, "labels": {"Set": "Posters"},
        });
        let request = JobRequest::from_json(json.to_string().as_bytes()).unwrap();
        let text = text(&request, Some(&"run-1".parse().unwrap()));
        for found in [&id.to_string(), "run-1", "a red house by the sea", "scene.png"] {
            assert!(text.contains(found), "{found}: {text}");
        }
        assert!(text.contains(&label("Set", "Posters")) && !text.contains(&label("Set", "Poster")));
        assert!(!text.contains("s3cret"));
        assert_eq!(words("  Red\thouse "), ["red", "house"]);
    }
}
