//! The scenarios that come with the tool.

use super::Scenario;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shipped {
    pub(crate) name: &'static str,
    /// The file.
    pub(crate) text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(Shipped { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) },)+]
    };
}

impl Shipped {
    pub(crate) const ALL: &[Self] = shipped![
        "connections",
        "connect-rate",
        "requests",
        "unicast",
        "batch-unicast",
        "multicast",
        "live-room",
        "mixed-day",
        "reconnect-storm",
    ];

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|shipped| shipped.name == name)
    }

    /// What it is for.
    pub(crate) fn about(&self) -> String {
        Scenario::parse(self.text).map(|scenario| scenario.about).unwrap_or_default()
    }
}
