//! Bounds how often passwords can be guessed, by account and by address.
//!
//! Each attempt is counted before it is checked, so that many at once gain nothing, and taken back
//! if it was right. The answer is the same whether the account exists or not. Tokens with 256
//! random bits count by address only: an account cannot be locked out of its machines.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::buckets::Buckets;

/// How many wrong attempts are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// For one account, from wherever, per window.
    pub per_account: u32,
    /// From one address (IPv6: its /64), per window.
    pub per_address: u32,
    /// In which that many are forgotten again, evenly.
    pub window: Duration,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self { per_account: 30, per_address: 60, window: Duration::from_secs(15 * 60) }
    }
}

/// Counts wrong attempts.
#[derive(Debug)]
pub struct Throttle {
    accounts: Mutex<Buckets<String>>,
    addresses: Mutex<Buckets<IpAddr>>,
}

/// An attempt that is counted as wrong until it turns out right.
#[derive(Debug)]
#[must_use]
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    account: Option<String>,
    address: IpAddr,
}

impl Throttle {
    /// Starts with nothing counted.
    #[must_use]
    pub fn new(settings: ThrottleSettings) -> Self {
        Self {
            accounts: Mutex::new(Buckets::new(settings.per_account, settings.window)),
            addresses: Mutex::new(Buckets::new(settings.per_address, settings.window)),
        }
    }

    /// Counts one attempt on an account (`None`: on no named one), or tells how long to wait.
    ///
    /// # Errors
    /// The time until the next attempt is allowed.
    pub fn attempt(
        &self,
        account: Option<&str>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Attempt<'_>, Duration> {
        let account = account.map(kept);
        let address = network(address);
        lock(&self.addresses).take(&address, now)?;
        if let Some(account) = &account
            && let Err(wait) = lock(&self.accounts).take(account, now)
        {
            // It was not made: the address must not pay for it.
            lock(&self.addresses).give_back(&address);
            return Err(wait);
        }
        Ok(Attempt { throttle: self, account, address })
    }

    /// Whether an attempt would be allowed.
    pub(super) fn allows(&self, account: &str, address: IpAddr, now: Instant) -> bool {
        let account = kept(account);
        lock(&self.addresses).room(&network(address), now) > 0
            && lock(&self.accounts).room(&account, now) > 0
    }

    /// Takes an attempt of no named account back that turned out right in a later request.
    pub(super) fn forgive_address(&self, address: IpAddr) {
        lock(&self.addresses).give_back(&network(address));
    }
}

impl Attempt<'_> {
    /// Takes the attempt back, for it was right or was not made.
    pub fn forgive(self) {
        self.forgive_address();
        self.forgive_account();
    }

    /// Takes it back for the address: the account is to blame.
    pub(super) fn forgive_address(&self) {
        lock(&self.throttle.addresses).give_back(&self.address);
    }

    /// Takes it back for the account: the address is to blame.
    pub(super) fn forgive_account(&self) {
        if let Some(account) = &self.account {
            lock(&self.throttle.accounts).give_back(account);
        }
    }
}

/// A name of any length may be tried: only its start is kept.
fn kept(account: &str) -> String {
    account.chars().take(64).collect()
}

/// Whoever has one IPv6 address has its /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Counts are whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn throttle(per_account: u32, per_address: u32) -> Throttle {
        let window = Duration::from_secs(60);
        Throttle::new(ThrottleSettings { per_account, per_address, window })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn accounts_are_bounded_over_all_addresses() {
        let (throttle, now) = (throttle(3, 100), Instant::now());
        for last in 1..=3 {
            let from = address(&format!("192.0.2.{last}"));
            drop(throttle.attempt(Some("alice"), from, now).unwrap());
        }
        let wait = throttle.attempt(Some("alice"), HERE, now).unwrap_err();
        assert_eq!(wait, Duration::from_secs(20));
        drop(throttle.attempt(Some("bob"), HERE, now).unwrap());
        drop(throttle.attempt(None, HERE, now).unwrap());
        drop(throttle.attempt(Some("alice"), HERE, now + wait).unwrap());
        assert!(throttle.attempt(Some("alice"), HERE, now + wait).is_err());
    }

    #[test]
    fn addresses_are_bounded_over_all_accounts() {
        let (throttle, now) = (throttle(100, 3), Instant::now());
        for name in ["a1", "a2", "a3"] {
            drop(throttle.attempt(Some(name), HERE, now).unwrap());
        }
        assert!(throttle.attempt(Some("a4"), HERE, now).is_err());
        // The refused attempt was none on the account, and other addresses go on.
        for _ in 0..3 {
            drop(throttle.attempt(Some("a4"), address("2001:db8::1"), now).unwrap());
        }
        assert!(throttle.attempt(None, address("2001:db8::ffff:1"), now).is_err(), "same /64");
        assert!(throttle.attempt(None, address("2001:db8:0:1::1"), now).is_ok());
        assert!(throttle.attempt(None, address("::ffff:192.0.2.1"), now).is_err(), "same IPv4");
    }

    #[test]
    fn right_attempts_are_not_counted() {
        let (throttle, now) = (throttle(2, 2), Instant::now());
        for _ in 0..10 {
            throttle.attempt(Some("alice"), HERE, now).unwrap().forgive();
        }
        // Made at once, they count while they are under way.
        let first = throttle.attempt(Some("alice"), HERE, now).unwrap();
        let second = throttle.attempt(Some("alice"), HERE, now).unwrap();
        assert!(throttle.attempt(Some("alice"), HERE, now).is_err());
        first.forgive();
        second.forgive();
    }
}
