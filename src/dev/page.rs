//! The demo page and the browser client, from this binary.

use super::demo::{APP, BUSINESS, GROUP};
use super::ports::Addresses;
use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;
use serde_json::json;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const JSON: &str = "application/json";

/// Every file of the page.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("../../web/demo/index.html")),
    ("/demo.js", SCRIPT, include_str!("../../web/demo/demo.js")),
    ("/style.css", STYLE, include_str!("../../web/demo/style.css")),
    ("/hawser.js", SCRIPT, include_str!("../../web/hawser.js")),
    ("/access.js", SCRIPT, include_str!("../../web/access.js")),
    ("/backoff.js", SCRIPT, include_str!("../../web/backoff.js")),
    ("/calls.js", SCRIPT, include_str!("../../web/calls.js")),
    ("/codes.js", SCRIPT, include_str!("../../web/codes.js")),
    ("/echoes.js", SCRIPT, include_str!("../../web/echoes.js")),
    ("/history.js", SCRIPT, include_str!("../../web/history.js")),
    ("/inbox.js", SCRIPT, include_str!("../../web/inbox.js")),
    ("/inboxes.js", SCRIPT, include_str!("../../web/inboxes.js")),
    ("/link.js", SCRIPT, include_str!("../../web/link.js")),
    ("/message.js", SCRIPT, include_str!("../../web/message.js")),
    ("/move.js", SCRIPT, include_str!("../../web/move.js")),
    ("/position.js", SCRIPT, include_str!("../../web/position.js")),
    ("/protobuf.js", SCRIPT, include_str!("../../web/protobuf.js")),
    ("/store.js", SCRIPT, include_str!("../../web/store.js")),
    ("/ticket.js", SCRIPT, include_str!("../../web/ticket.js")),
    ("/way.js", SCRIPT, include_str!("../../web/way.js")),
    ("/wire.js", SCRIPT, include_str!("../../web/wire.js")),
];

/// The page's routes. It may talk to this control and these access points, and to nobody else. `hawser`:
/// how to call this binary from a terminal.
pub(super) fn routes(at: &Addresses, hawser: &str) -> Router {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
         connect-src 'self' {} {} {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        at.control, at.ws, at.wss
    );
    let config = json!({
        "control": at.control,
        "app": APP,
        "business": BUSINESS,
        "group": GROUP,
        "hawser": hawser,
    });
    let mut router = Router::new();
    let mut serve = |path: &str, kind: &'static str, text: String| {
        let policy = policy.clone();
        let answer = move || async move {
            let headers = [
                (CONTENT_TYPE, kind.to_owned()),
                (CONTENT_SECURITY_POLICY, policy),
                (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                (CACHE_CONTROL, "no-cache".to_owned()),
            ];
            (headers, text)
        };
        router = std::mem::take(&mut router).route(path, get(answer));
    };
    for (path, kind, text) in FILES {
        serve(path, kind, (*text).to_owned());
    }
    serve("/config.json", JSON, config.to_string());
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that the page imports and nobody serves would leave it blank.
    #[test]
    fn every_import_is_served() {
        let served: Vec<&str> = FILES.iter().map(|(path, _, _)| *path).collect();
        for (path, kind, text) in FILES {
            let imports = text.lines().filter_map(|line| line.split_once("from \"./"));
            for (_, rest) in imports {
                let module = rest.split('"').next().expect("split gives at least one part");
                let wanted = format!("/{module}");
                assert!(served.contains(&wanted.as_str()), "{path} ({kind}) imports {module}");
            }
        }
    }
}
