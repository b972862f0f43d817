//! The way to a deployment's push API, plain or over TLS, and the key that opens it.

use crate::roots;
use anyhow::Context;
use std::path::Path;
use std::time::Duration;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// At `http://host:port` or `https://host:port`, to be dialled. `trust`: see [`roots::beside_machine`].
pub(crate) fn endpoint(address: &str, trust: Option<&Path>) -> anyhow::Result<Endpoint> {
    let mut endpoint = Channel::from_shared(address.to_owned())
        .with_context(|| format!("{address} is not http://host:port or https://host:port"))?;
    if address.starts_with("https://") {
        let trusted = roots::beside_machine(trust)?.roots;
        endpoint = endpoint.tls_config(ClientTlsConfig::new().trust_anchors(trusted))?;
    }
    Ok(endpoint.connect_timeout(CONNECT_PATIENCE).tcp_nodelay(true))
}

/// The key of a business, as calls show it.
pub(crate) fn bearer(key: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {key}").parse().context("an odd key")?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// A call that shows a key, and waits this long for its answer.
pub(crate) fn request<T>(message: T, key: &MetadataValue<Ascii>, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", key.clone());
    request.set_timeout(patience);
    request
}
