//! Output prefixes with fields: `s3://out/{path}/`.

use std::collections::BTreeMap;

use crate::job::JobError;

/// A prefix in which `{field}` is replaced for each job.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<TemplatePart>);

#[derive(Debug, Clone, PartialEq)]
enum TemplatePart {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, PartialEq)]
enum Field {
    /// The first input's file name without its extension.
    Stem,
    /// The first input's file name.
    Name,
    /// The first input's path below the source, without its extension.
    Path,
    /// The number of the row, from 1.
    Row,
    Batch,
    Label(String),
}

/// The values for the fields of one job.
pub struct Values<'a> {
    /// The first input, and the part of it that names the source.
    pub input: &'a str,
    pub below: &'a str,
    pub row: u64,
    pub batch: &'a str,
    pub labels: &'a BTreeMap<String, String>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let wrong = |reason: String| JobError::invalid("--output", format!("`{text}` {reason}"));
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| wrong("has a { without its }".to_owned()))?;
            let field = match name {
                "stem" => Field::Stem,
                "name" => Field::Name,
                "path" => Field::Path,
                "row" => Field::Row,
                "batch" => Field::Batch,
                _ => match name.strip_prefix("label.").filter(|label| !label.is_empty()) {
                    Some(label) => Field::Label(label.to_owned()),
                    None => {
                        let known = "{stem}, {name}, {path}, {row}, {batch} and {label.NAME}";
                        return Err(wrong(format!("has the field {{{name}}}; the fields are {known}")));
                    }
                },
            };
            parts.push(TemplatePart::Text(before.to_owned()));
            parts.push(TemplatePart::Field(field));
            rest = after;
        }
        parts.push(TemplatePart::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The prefix of one job, with a trailing `/`.
    pub fn fill(&self, values: &Values<'_>) -> Result<String, JobError> {
        let mut prefix = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Text(text) => prefix.push_str(text),
                TemplatePart::Field(field) => prefix.push_str(&value(field, values)?),
            }
        }
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(prefix)
    }
}

impl Template {
    /// What it may become for a job, to check its form.
    pub fn example(&self) -> String {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => text.clone(),
            TemplatePart::Field(_) => "x".to_owned(),
        };
        self.0.iter().map(part).collect()
    }

    /// Whether all jobs get the same prefix.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|part| matches!(part, TemplatePart::Text(_)))
    }
}

fn value(field: &Field, values: &Values<'_>) -> Result<String, JobError> {
    let name = values.input.rsplit('/').next().unwrap_or_default();
    let path = values.input.strip_prefix(values.below).filter(|_| !values.below.is_empty()).unwrap_or(name);
    let text = match field {
        Field::Stem => without_ending(name).to_owned(),
        Field::Name => name.to_owned(),
        Field::Path => without_ending(path.trim_start_matches('/')).to_owned(),
        Field::Row => values.row.to_string(),
        Field::Batch => values.batch.to_owned(),
        Field::Label(label) => match values.labels.get(label) {
            Some(value) => value.clone(),
            None => {
                let reason = format!("uses the label `{label}`, which this job does not have");
                return Err(JobError::invalid("output.prefix", reason));
            }
        },
    };
    if text.split('/').any(|step| step == "..") {
        return Err(JobError::invalid("output.prefix", format!("would leave the prefix with `{text}`")));
    }
    Ok(text)
}

fn without_ending(name: &str) -> &str {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].rfind('.') {
        Some(dot) if dot > 0 => &name[..start + dot],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, labels: &[(&str, &str)]) -> Result<String, String> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let values = Values {
            input: "s3://in/posters/2019/a.b.png",
            below: "s3://in/posters",
            row: 7,
            batch: "b1",
            labels: &labels,
        };
        Template::parse(template).and_then(|template| template.fill(&values)).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_are_filled() {
        assert_eq!(fill("s3://out/{path}/", &[]).unwrap(), "s3://out/2019/a.b/");
        assert_eq!(fill("s3://out/{batch}-{row}/{stem}", &[]).unwrap(), "s3://out/b1-7/a.b/");
        assert_eq!(fill("s3://{label.to}/{name}", &[("to", "x")]).unwrap(), "s3://x/a.b.png/");
    }

    #[test]
    fn mistakes_say_what_there_is() {
        assert!(fill("s3://out/{steam}", &[]).unwrap_err().contains("{stem}, {name}"));
        assert!(fill("s3://out/{stem", &[]).unwrap_err().contains("without its }"));
        assert!(fill("s3://out/{label.to}", &[]).unwrap_err().contains("label `to`"));
        assert!(fill("s3://out/{label.to}", &[("to", "a/../b")]).unwrap_err().contains("leave the prefix"));
    }
}
