//! The export formats and their names.

use std::{fmt, path::Path, str::FromStr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExportFormat {
    Zip,
    Ora,
    Psd,
    Pptx,
    /// The composite alone, lossless.
    Webp,
    /// The composite alone, on white where it is transparent.
    Jpeg,
}

impl ExportFormat {
    pub const ALL: [Self; 6] = [Self::Zip, Self::Ora, Self::Psd, Self::Pptx, Self::Webp, Self::Jpeg];

    /// The name, which is also the file extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Ora => "ora",
            Self::Psd => "psd",
            Self::Pptx => "pptx",
            Self::Webp => "webp",
            Self::Jpeg => "jpg",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Zip => "application/zip",
            Self::Ora => "image/openraster",
            Self::Psd => "image/vnd.adobe.photoshop",
            Self::Pptx => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            Self::Webp => "image/webp",
            Self::Jpeg => "image/jpeg",
        }
    }

    /// The format by a file's extension.
    pub fn of_path(path: &Path) -> Option<Self> {
        path.extension()?.to_str()?.to_ascii_lowercase().parse().ok()
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = if text == "jpeg" { "jpg" } else { text };
        Self::ALL.into_iter().find(|format| format.as_str() == name).ok_or_else(|| {
            format!("`{text}` is not an export format; the formats are zip, ora, psd, pptx, webp and jpg")
        })
    }
}
