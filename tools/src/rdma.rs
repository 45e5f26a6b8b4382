//! The flags that say how RDMA is used, where bytes go by it.
//!
//! Owns their ranges, and turning them into settings and back into flags for children. What they
//! do is left to `transport`.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use transport::tcp::TcpBackend;
use transport::verbs::{Mtu, RailNames, VerbsSettings};

use crate::failure::Failure;
use crate::flags::TransportFlag;

/// The highest service level.
const SERVICE_LEVEL_MAX: u8 = 15;
/// How long a request may take, in milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=60_000;
/// Longest payloads of packets, in bytes.
const MTUS: [(u32, Mtu); 5] = [
    (256, Mtu::Bytes256),
    (512, Mtu::Bytes512),
    (1024, Mtu::Bytes1024),
    (2048, Mtu::Bytes2048),
    (4096, Mtu::Bytes4096),
];

/// How RDMA is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct RdmaArgs {
    /// The devices to use, as `rdma link` shows them, with or without a port: mlx5_0,mlx5_1:2
    /// [default: all with an active port, the nearest first].
    #[arg(long, help_heading = "RDMA", value_name = "NAME[:PORT],...")]
    pub(crate) rdma_device: Option<String>,
    /// The port of each device that is named without one [default: any].
    #[arg(long, help_heading = "RDMA", value_name = "N")]
    pub(crate) rdma_port: Option<u8>,
    /// Entry of each port's GID table [default: RoCE v2, of the link's address if it has that].
    #[arg(long, help_heading = "RDMA", value_name = "N")]
    pub(crate) rdma_gid_index: Option<u8>,
    /// Traffic class of packets: six bits of DSCP and two of ECN [default: 0].
    #[arg(long, help_heading = "RDMA", value_name = "N")]
    pub(crate) rdma_traffic_class: Option<u8>,
    /// Service level, 0 to 15 [default: 0].
    #[arg(long, help_heading = "RDMA", value_name = "N")]
    pub(crate) rdma_service_level: Option<u8>,
    /// Entry of the port's table of partition keys [default: 0].
    #[arg(long, help_heading = "RDMA", value_name = "N")]
    pub(crate) rdma_pkey_index: Option<u16>,
    /// The longest payload of a packet: 256, 512, 1024, 2048 or 4096 [default: the ports'].
    #[arg(long, help_heading = "RDMA", value_name = "BYTES")]
    pub(crate) rdma_mtu: Option<u32>,
    /// After so long without an answer messages go over TCP [default: 500].
    #[arg(long, help_heading = "RDMA", value_name = "MS")]
    pub(crate) rdma_timeout_ms: Option<u64>,
}

impl RdmaArgs {
    /// These, and from `other` what these leave open.
    pub(crate) fn or(self, other: RdmaArgs) -> RdmaArgs {
        RdmaArgs {
            rdma_device: self.rdma_device.or(other.rdma_device),
            rdma_port: self.rdma_port.or(other.rdma_port),
            rdma_gid_index: self.rdma_gid_index.or(other.rdma_gid_index),
            rdma_traffic_class: self.rdma_traffic_class.or(other.rdma_traffic_class),
            rdma_service_level: self.rdma_service_level.or(other.rdma_service_level),
            rdma_pkey_index: self.rdma_pkey_index.or(other.rdma_pkey_index),
            rdma_mtu: self.rdma_mtu.or(other.rdma_mtu),
            rdma_timeout_ms: self.rdma_timeout_ms.or(other.rdma_timeout_ms),
        }
    }

    /// What they say, once they are in their ranges and `transport` can use RDMA at all.
    pub(crate) fn settings(&self, transport: TransportFlag) -> Result<VerbsSettings, Failure> {
        let wrong = |flag: &str, expected: &str, found: &dyn std::fmt::Display| {
            Failure::usage(format!("--rdma-{flag}: expected {expected}, found {found}"))
        };
        if !matches!(transport, TransportFlag::Auto | TransportFlag::Verbs)
            && *self != RdmaArgs::default()
        {
            return Err(Failure::usage("--rdma-... are for --transport verbs and auto only"));
        }
        let default = VerbsSettings::default();
        let rails = self.rdma_device.as_deref().map(str::parse::<RailNames>).transpose();
        if self.rdma_port == Some(0) {
            return Err(wrong("port", "1 or more", &0));
        }
        let service_level = self.rdma_service_level.unwrap_or(default.service_level);
        if service_level > SERVICE_LEVEL_MAX {
            return Err(wrong("service-level", "0 to 15", &service_level));
        }
        let mtu_max = match self.rdma_mtu {
            None => None,
            Some(bytes) => match MTUS.iter().find(|&&(known, _)| known == bytes) {
                Some(&(_, mtu)) => Some(mtu),
                None => return Err(wrong("mtu", "256, 512, 1024, 2048 or 4096", &bytes)),
            },
        };
        let operation_max = match self.rdma_timeout_ms {
            None => default.operation_max,
            Some(millis) if TIMEOUT_MS.contains(&millis) => Duration::from_millis(millis),
            Some(millis) => return Err(wrong("timeout-ms", "1 to 60000", &millis)),
        };
        Ok(VerbsSettings {
            rails: rails
                .map_err(|error| Failure::usage(format!("--rdma-device: {error}")))?
                .unwrap_or_default(),
            port: self.rdma_port,
            gid_index: self.rdma_gid_index,
            traffic_class: self.rdma_traffic_class.unwrap_or(default.traffic_class),
            service_level,
            pkey_index: self.rdma_pkey_index.unwrap_or(default.pkey_index),
            mtu_max,
            operation_max,
            ..default
        })
    }

    /// The flags that say the same.
    pub(crate) fn flags(&self) -> Vec<String> {
        let numbers = [
            ("port", self.rdma_port.map(u64::from)),
            ("gid-index", self.rdma_gid_index.map(u64::from)),
            ("traffic-class", self.rdma_traffic_class.map(u64::from)),
            ("service-level", self.rdma_service_level.map(u64::from)),
            ("pkey-index", self.rdma_pkey_index.map(u64::from)),
            ("mtu", self.rdma_mtu.map(u64::from)),
            ("timeout-ms", self.rdma_timeout_ms),
        ];
        let flag = |(name, number): (&str, Option<u64>)| {
            number.map(|number| format!("--rdma-{name}={number}"))
        };
        let device = self.rdma_device.iter().map(|device| format!("--rdma-device={device}"));
        device.chain(numbers.into_iter().filter_map(flag)).collect()
    }
}

/// How TCP is driven.
pub(crate) fn backend(transport: TransportFlag, rdma: &RdmaArgs) -> Result<TcpBackend, Failure> {
    let settings = rdma.settings(transport)?;
    Ok(match transport {
        TransportFlag::Auto | TransportFlag::Shm => TcpBackend::Auto(settings),
        TransportFlag::Uring => TcpBackend::Uring,
        TransportFlag::Epoll => TcpBackend::Epoll,
        TransportFlag::Verbs => TcpBackend::Verbs(settings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> RdmaArgs {
        RdmaArgs {
            rdma_device: Some("rxe0,rxe1:1".to_owned()),
            rdma_port: Some(1),
            rdma_gid_index: Some(3),
            rdma_traffic_class: Some(106),
            rdma_service_level: Some(3),
            rdma_pkey_index: Some(1),
            rdma_mtu: Some(1024),
            rdma_timeout_ms: Some(900),
        }
    }

    #[test]
    fn each_rdma_flag_becomes_its_setting_and_a_flag_again() {
        let settings = all().settings(TransportFlag::Verbs).expect("all are in their ranges");
        let expected = VerbsSettings {
            rails: "rxe0,rxe1:1".parse().expect("names"),
            port: Some(1),
            gid_index: Some(3),
            traffic_class: 106,
            service_level: 3,
            pkey_index: 1,
            mtu_max: Some(Mtu::Bytes1024),
            operation_max: Duration::from_millis(900),
            ..VerbsSettings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!(all().flags().len(), 8);
        assert_eq!(RdmaArgs::default().flags(), [""; 0]);
        assert_eq!(RdmaArgs::default().or(all()), all());
    }

    #[test]
    fn what_is_out_of_range_or_for_another_transport_is_refused() {
        let none = RdmaArgs::default;
        for wrong in [
            RdmaArgs { rdma_device: Some("a/b".to_owned()), ..none() },
            RdmaArgs { rdma_device: Some("a,".to_owned()), ..none() },
            RdmaArgs { rdma_port: Some(0), ..none() },
            RdmaArgs { rdma_service_level: Some(16), ..none() },
            RdmaArgs { rdma_mtu: Some(1500), ..none() },
            RdmaArgs { rdma_timeout_ms: Some(0), ..none() },
        ] {
            let settings = wrong.settings(TransportFlag::Auto);
            assert!(matches!(settings, Err(Failure::Usage(_))), "{wrong:?}");
        }
        assert!(matches!(all().settings(TransportFlag::Uring), Err(Failure::Usage(_))));
        assert!(none().settings(TransportFlag::Epoll).is_ok());
    }
}
