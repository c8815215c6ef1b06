//! The second layer of egress: which resolved addresses may be connected to. A name is resolved once, its
//! addresses are judged, and the connection goes to exactly one that passed, so a name that answers
//! differently a moment later gains nothing.

use crate::{
    error::{refuse, remote},
    grant::{HostPattern, HostPolicy, Target},
};
use model::ErrorRecord;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How long a name may take to resolve.
const RESOLVE_MS_MAX: u64 = 5_000;

/// A [`HostPolicy`] in checked form.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressPolicy {
    allowed: Vec<Network>,
    denied_hosts: Vec<HostPattern>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

impl AddressPolicy {
    pub(crate) fn parse(policy: &HostPolicy) -> Result<Self, String> {
        Ok(Self {
            allowed: policy.allow_private.iter().map(|text| Network::parse(text)).collect::<Result<_, _>>()?,
            denied_hosts: policy.deny_hosts.iter().map(|text| HostPattern::parse(text)).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn host_is_allowed(&self, target: &Target) -> Result<(), String> {
        if self.denied_hosts.iter().any(|p| p.matches(target)) {
            return Err(format!("the host policy forbids {}", target.origin()));
        }
        Ok(())
    }

    /// Why the address may not be reached.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), String> {
        let Some(why) = forbidden(address) else { return Ok(()) };
        let real = unmapped(address);
        if self.allowed.iter().any(|network| network.contains(real)) {
            return Ok(());
        }
        Err(format!("{address} is {why}: the host policy must name it in allow_private to be reachable"))
    }

    /// Resolves the name and gives the addresses that may be connected to, at least one.
    pub(crate) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, ErrorRecord> {
        let wait = std::time::Duration::from_millis(RESOLVE_MS_MAX);
        let looked_up = tokio::time::timeout(wait, tokio::net::lookup_host((target.host.as_str(), target.port)));
        let all: Vec<SocketAddr> = match looked_up.await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                return Err(remote("remote.name_unresolved", format!("{:?} can't be resolved: {error}", target.host)));
            }
            Err(_) => {
                return Err(remote("remote.name_unresolved", format!("{:?} didn't resolve in {RESOLVE_MS_MAX} ms", target.host)));
            }
        };
        let mut refusal = None;
        let mut allowed = Vec::new();
        for address in all {
            match self.check(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(why) => refusal = Some(why),
            }
        }
        match (allowed.is_empty(), refusal) {
            (false, _) => Ok(allowed),
            (true, Some(why)) => {
                Err(refuse("permission.address_denied", format!("{:?} leads to an address that is closed: {why}", target.host)))
            }
            (true, None) => Err(remote("remote.name_unresolved", format!("{:?} has no address", target.host))),
        }
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no address or network: write 127.0.0.1 or 10.0.0.0/8");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |p| p.parse().map_err(|_| bad()))?;
        if prefix > bits { Err(bad()) } else { Ok(Self { address, prefix }) }
    }

    fn contains(&self, other: IpAddr) -> bool {
        let (own, other, bits) = match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
            _ => return false,
        };
        let shift = bits - u32::from(self.prefix);
        // A shift by the whole width is not defined, and /0 covers everything.
        self.prefix == 0 || own >> shift == other >> shift
    }
}

/// The IPv4 address that an IPv6 one wraps (mapped, compatible, NAT64, 6to4), else the address itself.
fn unmapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// What makes an address closed by default.
fn forbidden(address: IpAddr) -> Option<&'static str> {
    match unmapped(address) {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(a: Ipv4Addr) -> Option<&'static str> {
    match a.octets() {
        [169, 254, 169, 254] | [100, 100, 100, 200] | [192, 0, 0, 192] => Some("a cloud's metadata service"),
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        [224..=255, ..] => Some("multicast or reserved"),
        _ => None,
    }
}

fn forbidden_v6(a: Ipv6Addr) -> Option<&'static str> {
    match a.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, _] => Some("loopback"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("a cloud's metadata service"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str]) -> AddressPolicy {
        AddressPolicy::parse(&HostPolicy { allow_private: allow.iter().map(|a| (*a).into()).collect(), deny_hosts: vec![] })
            .unwrap()
    }

    #[test]
    fn closed_addresses_are_closed_in_every_spelling() {
        let closed = [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "100.100.100.200",
        ];
        for address in closed {
            assert!(policy(&[]).check(address.parse().unwrap()).is_err(), "{address}");
        }
        for open in ["10.1.2.3", "192.168.1.1", "93.184.215.14", "2606:4700::1111", "fd12::1", "::ffff:8.8.8.8"] {
            assert!(policy(&[]).check(open.parse().unwrap()).is_ok(), "{open}");
        }
    }

    #[test]
    fn the_host_policy_opens_exactly_what_it_names() {
        let only_one = policy(&["127.0.0.1"]);
        assert!(only_one.check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(only_one.check("::ffff:127.0.0.1".parse().unwrap()).is_ok());
        assert!(only_one.check("127.0.0.2".parse().unwrap()).is_err());
        assert!(only_one.check("::1".parse().unwrap()).is_err());
        assert!(policy(&["127.0.0.0/8", "::1"]).check("127.9.9.9".parse().unwrap()).is_ok());
        for bad in ["", "localhost", "10.0.0.0/33", "::/129", "1.2.3", "10.0.0.0/x"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_refused_by_its_address() {
        let error = policy(&[]).resolve(&Target::tcp("localhost", 80)).await.unwrap_err();
        assert_eq!(error.code, "permission.address_denied");
        assert!(error.message.contains("loopback") && error.message.contains("allow_private"), "{}", error.message);
        assert!(!policy(&["127.0.0.1", "::1"]).resolve(&Target::tcp("localhost", 80)).await.unwrap().is_empty());
    }
}
