//! What this router tells control of itself every few seconds, so that backends and operators find it.

use crate::core::Core;
use hawser_chassis::peers::PeerChannel;
use hawser_proto::rpc::control::RouterReport;
use hawser_proto::rpc::control::control_client::ControlClient;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use tracing::{debug, info};

/// Until the next report, unless control wants it at another time.
const EVERY: Duration = Duration::from_secs(3);
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(10);
/// A control of an earlier release knows no reports of routers.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the end waits for control to hear of it.
const LAST_TIMEOUT: Duration = Duration::from_millis(500);

/// Reports until told to stop, and at once when the end begins. `push`: where backends dial.
pub(crate) async fn run(core: Arc<Core>, channel: PeerChannel, push: String) {
    let mut client = ControlClient::new(channel);
    let (stop, leaving) = (core.tasks.stop_signal(), core.push_tasks.stop_signal());
    loop {
        let is_draining = leaving.is_cancelled();
        let mut report = tonic::Request::new(report(&core, &push, is_draining));
        report.set_timeout(CALL_TIMEOUT);
        let mut asked = pin!(tokio::time::timeout(CALL_TIMEOUT, client.report_router(report)));
        let answered = tokio::select! {
            answered = &mut asked => answered,
            () = leaving.cancelled(), if !is_draining => continue,
            () = stop.cancelled() => {
                let _ = tokio::time::timeout(LAST_TIMEOUT, asked).await;
                return;
            }
        };
        let pause = match answered {
            Ok(Ok(answer)) => match answer.into_inner().next_report_ms {
                0 => EVERY,
                wanted => Duration::from_millis(wanted.into()).clamp(EVERY_MIN, EVERY_MAX),
            },
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                info!("control takes no reports of routers");
                UNKNOWN_PAUSE
            }
            Ok(Err(status)) => {
                debug!(%status, "control took no report");
                EVERY
            }
            Err(_) => EVERY,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = leaving.cancelled(), if !is_draining => {}
            () = stop.cancelled(), if is_draining => return,
        }
    }
}

fn report(core: &Core, push: &str, draining: bool) -> RouterReport {
    let view = core.nodes.view(core.clock.steady_ms());
    let (mut routes, mut nodes) = (0, 0);
    for life in view.lives() {
        routes += life.routes();
        nodes += u64::from(life.is_heard());
    }
    RouterReport {
        router: core.name.clone(),
        boot: core.boot,
        functions: core.functions.bits(),
        push: push.to_owned(),
        routes,
        nodes,
        draining,
    }
}
