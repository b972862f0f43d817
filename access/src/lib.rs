//! Holds connections: four transports, one session machine, lanes and pools.
