//! Lists in pages.

use super::problem::Problem;
use crate::refusal::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 500;

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items wanted, 1 to 500. Default 100.
    #[param(minimum = 1, maximum = 500)]
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// In the order of their names; the audit log newest first.
    pub(super) items: Vec<T>,
    /// There when the list goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_page_token: Option<String>,
}

impl PageQuery {
    pub(super) fn size(&self) -> Result<usize, Problem> {
        let size = self.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
        if (1..=PAGE_SIZE_MAX).contains(&size) {
            return Ok(size);
        }
        Err(Refusal::invalid("page_size is not between 1 and 500").into())
    }

    /// The place the token names, checked by `parse`.
    pub(super) fn after<T>(
        &self,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(token) = &self.page_token else { return Ok(None) };
        let place = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| parse(&bytes));
        let invalid = || Refusal::invalid("page_token is not one that was given out").into();
        place.map(Some).ok_or_else(invalid)
    }
}

/// The token of the page after the item with this place.
pub(super) fn token(place: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

impl<T> Page<T> {
    /// Cuts items that were read one more than asked for; `place` names an item's place.
    pub(super) fn cut(mut items: Vec<T>, size: usize, place: impl FnOnce(&T) -> Vec<u8>) -> Self {
        let more = items.len() > size;
        items.truncate(size);
        let last = if more { items.last() } else { None };
        let next_page_token = last.map(|item| token(&place(item)));
        Self { items, next_page_token }
    }
}
