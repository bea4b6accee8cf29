//! The LoRAs that jobs may name.

use std::path::Path;

use qwen_image::{Lora, hub::LoraSource};

use crate::job::{JobError, LoraParam};

/// The list of `qwen_image.allowed_loras`, so that a message cannot make a worker load anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AllowedLoras(Vec<Allowed>);

#[derive(Debug, Clone, PartialEq)]
struct Allowed {
    /// As in the settings.
    text: String,
    source: LoraSource,
}

impl AllowedLoras {
    /// # Errors
    /// If an entry is not a file or a hub id.
    pub fn parse(texts: &[String]) -> Result<Self, JobError> {
        let one = |text: &String| match LoraSource::parse(text) {
            Ok(source) => Ok(Allowed { text: text.clone(), source }),
            Err(error) => Err(JobError::invalid("qwen_image.allowed_loras", error.to_string())),
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// The LoRAs of a job; none if it does not name any.
    ///
    /// # Errors
    /// [`JobError::InvalidRequest`] with the first name that is not in the list.
    pub fn of(&self, params: Option<&[LoraParam]>) -> Result<Option<Vec<Lora>>, JobError> {
        let Some(params) = params else { return Ok(None) };
        let one = |(index, LoraParam { name, strength }): (usize, &LoraParam)| {
            let source =
                self.find(name).map_err(|reason| JobError::invalid(format!("params.loras[{index}].name"), reason))?;
            Ok(Lora { source: source.clone(), strength: *strength })
        };
        params.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
    }

    fn find(&self, name: &str) -> Result<&LoraSource, String> {
        if let Some(allowed) = self.0.iter().find(|allowed| allowed.text == name) {
            return Ok(&allowed.source);
        }
        let named: Vec<_> = self.0.iter().filter(|allowed| allowed.is_called(name)).collect();
        match named.as_slice() {
            [one] => Ok(&one.source),
            [] => Err(format!(
                "`{}` is not one of the LoRAs in qwen_image.allowed_loras{}",
                name.escape_debug(),
                self.hint()
            )),
            several => Err(format!(
                "`{}` is the name of {} LoRAs in qwen_image.allowed_loras; write one as it is there",
                name.escape_debug(),
                several.len()
            )),
        }
    }

    /// The short names, without folders, which are nobody else's business.
    fn hint(&self) -> String {
        let names: Vec<_> = self.0.iter().filter_map(Allowed::name).collect();
        if names.is_empty() { ", which is empty".to_owned() } else { format!(": {}", names.join(", ")) }
    }
}

impl Allowed {
    fn is_called(&self, name: &str) -> bool {
        self.name().is_some_and(|own| own == name || own == name.trim_end_matches(".safetensors"))
    }

    /// The file's name without its ending, or the repository's.
    fn name(&self) -> Option<&str> {
        let path = self.text.rsplit(':').next()?;
        Path::new(path).file_name()?.to_str().map(|name| name.trim_end_matches(".safetensors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_list_and_nothing_else() {
        let texts = ["/a/flat.safetensors", "/b/ink.safetensors", "/c/ink.safetensors", "Org/Name:x/soft.safetensors"];
        let allowed = AllowedLoras::parse(&texts.map(str::to_owned)).unwrap();
        let of = |name: &str| allowed.of(Some(&[LoraParam { name: name.to_owned(), strength: 0.5 }]));
        for (name, found) in [
            ("flat", "/a/flat.safetensors=0.5"),
            ("flat.safetensors", "/a/flat.safetensors=0.5"),
            ("/c/ink.safetensors", "/c/ink.safetensors=0.5"),
            ("soft", "Org/Name:x/soft.safetensors=0.5"),
        ] {
            assert_eq!(of(name).unwrap().unwrap()[0].to_string(), found, "{name}");
        }
        for (name, told) in [
            ("ink", "is the name of 2 LoRAs"),
            ("/etc/flat.safetensors", "is not one of the LoRAs in qwen_image.allowed_loras: flat, ink, ink, soft"),
            ("Org/Name", "is not one of"),
        ] {
            let error = of(name).unwrap_err().to_string();
            assert!(error.starts_with("params.loras[0].name: ") && error.contains(told), "{error}");
        }
        let none = AllowedLoras::default();
        assert!(none.of(None).unwrap().is_none() && none.of(Some(&[])).unwrap() == Some(Vec::new()));
        let error = none.of(Some(&[LoraParam { name: "x".to_owned(), strength: 1.0 }])).unwrap_err().to_string();
        assert!(error.contains("qwen_image.allowed_loras, which is empty"), "{error}");
    }
}
