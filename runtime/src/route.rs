//! Routes: the choices of a call, which may run in several parts.

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// Choices `[sites, rows]` of a call, and those that the caller forces on the next one.
#[derive(Debug, Default)]
pub(crate) struct Route {
    sites: usize,
    /// Rows of the call, and how many of them have run.
    rows: usize,
    done: usize,
    made: Vec<i32>,
    /// For the next call.
    next: Option<Vec<i32>>,
    forced: Option<Vec<i32>>,
    /// The part of `forced` that runs now.
    part: Vec<i32>,
}

impl Route {
    pub fn new(sites: usize) -> Route {
        Route { sites, ..Route::default() }
    }

    /// Forces these choices on the next call.
    pub fn force(&mut self, route: Vec<i32>) {
        self.next = Some(route);
    }

    /// Starts a call.
    ///
    /// # Errors
    /// A forced route of the wrong size, which is forgotten; no memory for the choices.
    pub fn begin(&mut self, rows: usize) -> Result<()> {
        self.forced = self.next.take();
        (self.rows, self.done) = (rows, 0);
        self.made.clear();
        let choices = self.sites.saturating_mul(rows);
        memory::reserve(&mut self.made, choices)?;
        self.made.resize(choices, -1);
        match &self.forced {
            Some(forced) if forced.len() != self.made.len() => {
                let (found, sites) = (forced.len(), self.sites);
                let message =
                    format!("a route of {found} choices is not {sites} sites x {rows} tokens");
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            _ => Ok(()),
        }
    }

    /// The forced choices of the next `rows` rows.
    pub fn part(&mut self, rows: usize) -> Option<&[i32]> {
        let forced = self.forced.as_ref()?;
        self.part.clear();
        for site in forced.chunks_exact(self.rows.max(1)) {
            self.part.extend_from_slice(site.get(self.done..self.done + rows)?);
        }
        Some(&self.part)
    }

    /// Takes the choices `[sites, rows]` that a part made.
    pub fn record(&mut self, choices: &[i32], rows: usize) {
        let range = self.done..self.done + rows;
        let sites = self.made.chunks_exact_mut(self.rows.max(1));
        for (made, choices) in sites.zip(choices.chunks_exact(rows.max(1))) {
            if let Some(made) = made.get_mut(range.clone()) {
                made.copy_from_slice(choices);
            }
        }
        self.done += rows;
    }

    /// The choices of the last call, -1 where none was made.
    pub fn made(&self) -> &[i32] {
        &self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_route_fit_together() {
        let mut route = Route::new(2);
        route.force(vec![0, 1, 2, 3, 4, 5]);
        route.begin(3).unwrap();
        assert_eq!(route.part(2), Some(&[0, 1, 3, 4][..]));
        route.record(&[0, 1, 3, 4], 2);
        assert_eq!(route.part(1), Some(&[2, 5][..]));
        route.record(&[7, 8], 1);
        assert_eq!(route.made(), [0, 1, 7, 3, 4, 8]);
        // A route is forced once.
        route.begin(1).unwrap();
        assert_eq!(route.part(1), None);
        assert_eq!(route.made(), [-1, -1]);
        route.force(vec![0; 3]);
        assert_eq!(route.begin(1).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
