//! Logins: who is let in over which transport, and who is not.

use crate::fakes::dial::Dial;
use crate::house::{APP, House};
use hawser_proto::rpc::push::Outcome;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_logs_in_over_every_transport_and_is_pushed_to() {
    let house = House::start().await;
    for how in Dial::ALL {
        let name = format!("d-{}", how.name());
        let (mut device, ok) = house.login(how, &name).await;
        let route = house.router.route(APP, &name).unwrap();
        assert_eq!(ok.epoch, route.epoch);
        let names: Vec<_> = ok.businesses.iter().map(|it| (&it.name[..], it.number)).collect();
        assert_eq!(names, [("chat", 1), ("deaf", 2)], "all that the token allows, by name");
        let report = house.router.deliver(house.push_to(&[route], b"hello")).await;
        assert_eq!(report.outcomes, [Outcome::Written as u32], "{how:?}");
        assert_eq!(device.pushed().await, b"hello");
        house
            .metric_is("hawser_access_sessions", &[("app", APP), ("transport", how.name())], 1.0)
            .await;
    }
    house.ends_clean().await;
}
