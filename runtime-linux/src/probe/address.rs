//! Network cards and addresses: whether a card has a link, whether an address is set here and
//! nowhere else.
//!
//! The kernel tells of every change through netlink (rtnetlink(7)): a watch only uses that as a
//! sign to look again.

use std::{io, net::IpAddr};

use havre_core::checks::probe::Finding;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
    socket_with,
};
use tokio::task::spawn_blocking;

use super::awaitable;
use crate::{
    interface::{Interface, addresses, interfaces},
    netlink::{Family, Netlink},
    vip::detect,
};

/// Link changes, and changes of addresses in both versions (linux/rtnetlink.h, RTMGRP_*).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// The card that has an address.
fn card_of(addr: IpAddr) -> io::Result<Option<Interface>> {
    let mut netlink = Netlink::open(Family::Route)?;
    let all = addresses(&mut netlink)?;
    let Some(index) = all.iter().find(|a| a.addr == addr).map(|a| a.index) else {
        return Ok(None);
    };
    Ok(interfaces(&mut netlink)?.into_iter().find(|i| i.index == index))
}

fn unable(error: &io::Error) -> Finding {
    Finding::Unable(format!("netlink: {error}"))
}

/// The card that has an address, or else one of the network to which it belongs.
fn card_near(addr: IpAddr) -> io::Result<Option<Interface>> {
    let mut netlink = Netlink::open(Family::Route)?;
    let all = addresses(&mut netlink)?;
    let exact = all.iter().find(|a| a.addr == addr);
    let near = exact.or_else(|| all.iter().find(|a| a.network_contains(addr)));
    let Some(index) = near.map(|a| a.index) else { return Ok(None) };
    Ok(interfaces(&mut netlink)?.into_iter().find(|i| i.index == index))
}

/// Whether the card with this address is switched on and its cable works.
///
/// An address of no network of this machine says nothing about any card: a module must not wait
/// for ever because of it.
pub(super) fn link_of(addr: IpAddr) -> Finding {
    match card_near(addr) {
        Ok(Some(card)) if card.running => Finding::Up,
        Ok(Some(card)) if card.up => Finding::Down(format!("{} has no link", card.name)),
        Ok(Some(card)) => Finding::Down(format!("{} is switched off", card.name)),
        Ok(None) => Finding::Unable(format!("no network card has {addr} or its network")),
        Err(error) => unable(&error),
    }
}

/// Whether an address is set here.
pub(super) fn is_set(addr: IpAddr) -> Finding {
    match card_of(addr) {
        Ok(Some(_)) => Finding::Up,
        Ok(None) => Finding::Down(format!("{addr} is not set here")),
        Err(error) => unable(&error),
    }
}

/// Whether an address is set here, and no other host answers for it.
pub(super) fn held(addr: IpAddr) -> Finding {
    let card = match card_of(addr) {
        Ok(Some(card)) => card,
        Ok(None) => return Finding::Down(format!("{addr} is not set here")),
        Err(error) => return unable(&error),
    };
    match detect::claimant(&card, addr, detect::Look::Thorough) {
        Ok(None) => Finding::Up,
        Ok(Some(mac)) => {
            let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            Finding::Down(format!("{} answers for {addr}, too", mac.join(":")))
        }
        Err(error) => Finding::Unable(format!("{}: {error}", card.name)),
    }
}

/// Reports what `look` finds, at first and whenever the kernel's answer has changed.
pub(super) async fn watch(
    look: impl Fn() -> Finding + Clone + Send + 'static,
    report: impl Fn(Finding),
) {
    let Ok(changes) = listen().and_then(awaitable) else {
        return report(Finding::Unable("netlink cannot be listened to".to_owned()));
    };
    let mut told = None;
    loop {
        let Ok(finding) = spawn_blocking(look.clone()).await else { return };
        if told.as_ref() != Some(&finding) {
            told = Some(finding.clone());
            report(finding);
        }
        let Ok(mut guard) = changes.readable().await else { return };
        let mut buffer = [0u8; 8 * 1024];
        // Overflow only means that there were many changes.
        while matches!(
            recv(changes.get_ref(), &mut buffer[..], RecvFlags::DONTWAIT),
            Ok(_) | Err(rustix::io::Errno::NOBUFS)
        ) {}
        guard.clear_ready();
    }
}

fn listen() -> io::Result<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_a_link_and_holds_its_address() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(link_of(loopback), Finding::Up);
        assert_eq!(is_set(loopback), Finding::Up);
        assert_eq!(held(loopback), Finding::Up);
    }

    #[test]
    fn an_address_that_no_card_has_is_down() {
        // 2001:db8::/32 is for documentation (RFC 3849).
        let nobodys: IpAddr = "2001:db8::77".parse().expect("an address");
        assert!(matches!(link_of(nobodys), Finding::Unable(text) if text.contains("db8::77")));
        assert!(matches!(held(nobodys), Finding::Down(_)));
    }
}
