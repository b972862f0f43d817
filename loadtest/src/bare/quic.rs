//! The anchor for QUIC: quinn on one thread, that echoes the first word of each connection's stream and
//! keeps the connection.

use anyhow::Context;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, ServerConfig, TransportConfig, VarInt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Longer than nothing is said in any measurement.
const IDLE: Duration = Duration::from_hours(1);

/// Serves for ever. Prints the address first.
pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(folder))
}

async fn serve(folder: &Path) -> anyhow::Result<()> {
    let crypto = QuicServerConfig::try_from(super::secure(folder)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    // One stream of the device's, as hawser grants.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.max_idle_timeout(Some(IDLE.try_into()?));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into())?;
    println!("{}", endpoint.local_addr()?);
    let mut held = JoinSet::new();
    loop {
        let incoming = endpoint.accept().await.context("the endpoint is closed")?;
        held.spawn(hold(incoming));
    }
}

/// A connection that fails has ended: whoever dialled it sees that.
async fn hold(incoming: quinn::Incoming) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    loop {
        let Some(word) = receive.read_chunk(4096, true).await? else { break };
        send.write_all(&word.bytes).await?;
    }
    Ok(())
}
