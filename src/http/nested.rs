//! The layers of a result together with those that its layers were taken apart into.

use crate::{
    database::{JobRow, JobStore},
    image::Stack,
    job::{FileEntry, JobError, LayerRole, MOST_NESTED},
    store::{ObjectKey, ResultFiles, Stores},
};

/// A result, and the results for some of its layers.
pub struct NestedResult {
    row: JobRow,
    variant: Option<u32>,
    /// The layer's file, and what it was taken apart into.
    inner: Vec<(String, NestedResult)>,
}

impl NestedResult {
    /// For each layer, the newest decompose of it that has the same canvas.
    pub async fn find(jobs: &JobStore, row: JobRow, variant: Option<u32>) -> Result<Self, JobError> {
        Self::find_to(jobs, row, variant, MOST_NESTED).await
    }

    async fn find_to(jobs: &JobStore, row: JobRow, variant: Option<u32>, depth: u32) -> Result<Self, JobError> {
        let mut inner: Vec<(String, Self)> = Vec::new();
        let nested = if depth > 0 { jobs.nested_in(row.id()).await? } else { Vec::new() };
        for found in nested {
            let Some(file) = layer_of(&row, &found) else { continue };
            let is_of_variant = file.variant.is_none_or(|number| number == variant.unwrap_or(1));
            let has_its_size = layers(&found).next().is_some_and(|layer| {
                let (own, of_layer) = (layer.canvas(), file.canvas());
                (own.width, own.height) == (of_layer.width, of_layer.height)
            });
            let is_known = inner.iter().any(|(known, _)| *known == file.name);
            if is_of_variant && has_its_size && !is_known {
                let name = file.name.clone();
                inner.push((name, Box::pin(Self::find_to(jobs, found, None, depth - 1)).await?));
            }
        }
        Ok(Self { row, variant, inner })
    }

    /// Whether no layer was taken apart.
    pub fn is_plain(&self) -> bool {
        self.inner.is_empty()
    }

    /// All its results, for a tag that changes with them.
    pub fn tag(&self) -> String {
        let inner: String = self.inner.iter().map(|(_, inner)| format!("-{}", inner.tag())).collect();
        format!("{}-{}-{}{inner}", self.row.id(), self.row.epoch, self.variant.unwrap_or(1))
    }

    /// Its layers, those that were taken apart as groups.
    pub async fn stack(&self, stores: &Stores) -> Result<Stack, JobError> {
        let missing = || JobError::invalid("id", format!("job {} has no result", self.row.id()));
        let result = self.row.published.as_ref().ok_or_else(missing)?;
        let store = stores.at_root(result.root.as_deref())?;
        let files = ResultFiles::published(store, ObjectKey::parse(&result.manifest)?).await?;
        let mut stack = Stack::of_result(&files.manifest, files.read_all().await?, self.variant)?;
        for (file, inner) in &self.inner {
            stack.nest(file, Box::pin(inner.stack(stores)).await?);
        }
        Ok(stack)
    }
}

/// The layer of a job that another one takes apart.
fn layer_of<'a>(row: &'a JobRow, nested: &JobRow) -> Option<&'a FileEntry> {
    let parent = nested.request.parent_layer()?;
    let is_it = |file: &&FileEntry| match &parent.file {
        Some(name) => file.name == *name,
        None => file.layer() == Some(parent.layer),
    };
    layers(row).find(is_it)
}

fn layers(row: &JobRow) -> impl Iterator<Item = &FileEntry> {
    let files = row.published.as_ref().map(|result| result.files.as_slice()).unwrap_or_default();
    files.iter().filter(|file| file.role == LayerRole::Layer)
}
