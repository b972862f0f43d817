//! Devices by the thousand, benchmarks beside the bare kernel, and the churn test.
