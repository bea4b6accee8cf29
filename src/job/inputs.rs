//! The pictures of a job, by role.

use std::iter;

use super::{InputRef, JobKind};

/// The pictures of a job: first references, then files, then pixels.
///
/// A message has them in one list, in the order of [`Inputs::iter`], and the mask beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs<T = InputRef> {
    /// The reference pictures that an edit's instruction may mention: "Picture 1", "Picture 2".
    pub references: Vec<T>,
    /// The picture to split or edit; absent for a composite.
    pub image: Option<T>,
    /// The layers of a composite, back to front.
    pub layers: Vec<T>,
    /// Where an edit may change its picture. It is none of the job's pictures.
    pub mask: Option<T>,
}

impl<T> Inputs<T> {
    /// Assigns roles to a message's list, without a mask. Does not check the number of pictures.
    pub fn named(kind: JobKind, mut list: Vec<T>) -> Self {
        match kind {
            JobKind::Composite => Self { references: Vec::new(), image: None, layers: list, mask: None },
            JobKind::Decompose | JobKind::Edit | JobKind::Workflow => {
                let image = list.pop();
                Self { references: list, image, layers: Vec::new(), mask: None }
            }
        }
    }

    /// All pictures, in the order of a message's list and of the model's numbering.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.references.iter().chain(&self.image).chain(&self.layers)
    }

    /// The pictures, then the mask.
    pub fn with_mask(&self) -> impl Iterator<Item = &T> {
        self.iter().chain(&self.mask)
    }

    pub fn with_mask_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.references.iter_mut().chain(&mut self.image).chain(&mut self.layers).chain(&mut self.mask)
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Maps the pictures one by one, in the order of [`Inputs::with_mask`].
    pub fn try_map<U, E>(self, mut change: impl FnMut(T) -> Result<U, E>) -> Result<Inputs<U>, E> {
        let references = self.references.into_iter().map(&mut change).collect::<Result<_, E>>()?;
        let image = self.image.map(&mut change).transpose()?;
        let layers = self.layers.into_iter().map(&mut change).collect::<Result<_, E>>()?;
        let mask = self.mask.map(&mut change).transpose()?;
        Ok(Inputs { references, image, layers, mask })
    }
}

impl<T> IntoIterator for Inputs<T> {
    type Item = T;
    type IntoIter = iter::Chain<iter::Chain<std::vec::IntoIter<T>, std::option::IntoIter<T>>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.references.into_iter().chain(self.image).chain(self.layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_get_their_names_from_the_kind_and_keep_their_order() {
        let edit = Inputs::named(JobKind::Edit, vec![1, 2, 3]);
        assert_eq!((&edit.references[..], edit.image, edit.layers.len()), (&[1, 2][..], Some(3), 0));
        let composite = Inputs::named(JobKind::Composite, vec![1, 2, 3]);
        assert_eq!((composite.references.len(), composite.image, &composite.layers[..]), (0, None, &[1, 2, 3][..]));
        for kind in JobKind::ALL {
            for list in [vec![], vec![1], vec![1, 2, 3]] {
                let inputs = Inputs::named(kind, list.clone());
                assert_eq!((inputs.len(), inputs.is_empty()), (list.len(), list.is_empty()));
                assert_eq!(inputs.iter().copied().collect::<Vec<_>>(), list, "{kind}");
                let doubled = inputs.clone().try_map(|n| Ok::<_, ()>(2 * n)).unwrap();
                assert_eq!(doubled.into_iter().collect::<Vec<_>>(), list.iter().map(|n| 2 * n).collect::<Vec<_>>());
                assert_eq!(inputs.into_iter().collect::<Vec<_>>(), list, "{kind}");
            }
        }
    }

    #[test]
    fn the_first_mistake_ends_a_change() {
        let mut seen = Vec::new();
        let refused = Inputs::named(JobKind::Edit, vec![1, 2, 3]).try_map(|n| {
            seen.push(n);
            if n == 2 { Err(n) } else { Ok(n) }
        });
        assert_eq!((refused, seen), (Err(2), vec![1, 2]));
    }
}
