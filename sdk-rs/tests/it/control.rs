//! Control's access call, played by the test: each call takes the next answer.

use crate::node::soon;
use hawser_sdk::AccessPoint;
use rustls::ServerConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// An access call that waits for its answer.
pub(crate) struct Asked {
    pub(crate) body: Value,
    answer: oneshot::Sender<String>,
}

impl Asked {
    /// Answers with advice: this token and these points.
    pub(crate) fn advise(self, token: &str, points: &[&AccessPoint]) {
        let points: Vec<Value> = points
            .iter()
            .map(|it| {
                json!({"protocol": it.protocol.name(), "host": it.host, "port": it.port,
                       "server_name": it.server_name, "weight": 1})
            })
            .collect();
        let body = json!({
            "token": token, "issued_at_ms": 1_000_000, "refresh_at_ms": 2_800_000,
            "expires_at_ms": 4_600_000, "access_points": points, "heartbeat_ms": 25_000,
            "idle_timeout_ms": 35_000, "reconnect_window_ms": 20, "start_after_ms": 0,
            "backoff": {"base_ms": 10, "max_ms": 40, "factor": 2.0, "jitter": 0.5},
            "policy_version": 1, "refresh_after_ms": 0,
        });
        self.answer("200 OK", "application/json", &body);
    }

    /// Answers with a problem.
    pub(crate) fn refuse(self, status: &str, code: &str) {
        let body = json!({"code": code, "title": code, "detail": "because"});
        self.answer(status, "application/problem+json", &body);
    }

    fn answer(self, status: &str, kind: &str, body: &Value) {
        let body = body.to_string();
        let text = format!(
            "HTTP/1.1 {status}\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = self.answer.send(text);
    }
}

pub(crate) struct Control {
    pub(crate) address: String,
    calls: mpsc::Receiver<Asked>,
}

impl Control {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (asked, calls) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match tls.clone() {
                    None => drop(tokio::spawn(serve(stream, asked.clone()))),
                    Some(tls) => {
                        let asked = asked.clone();
                        let acceptor = TlsAcceptor::from(Arc::new(tls));
                        tokio::spawn(async move {
                            serve(acceptor.accept(stream).await.ok()?, asked).await
                        });
                    }
                }
            }
        });
        Self { address: format!("{scheme}://127.0.0.1:{port}"), calls }
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        soon("an access call", self.calls.recv()).await.expect("the listener lives")
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    asked: mpsc::Sender<Asked>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    assert_eq!(line, "POST /v1/access HTTP/1.1\r\n");
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let body = serde_json::from_slice(&body).unwrap();
    let (answer, text) = oneshot::channel();
    asked.send(Asked { body, answer }).await.ok()?;
    stream.get_mut().write_all(text.await.ok()?.as_bytes()).await.ok()?;
    stream.get_mut().flush().await.ok()
}
