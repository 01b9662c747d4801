//! Brings up the loopback of a fresh network namespace, so that tests that talk to themselves can. Over netlink, for there may be
//! no program inside that could do it.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, sendto, socket};

/// `RTM_NEWLINK` that sets `IFF_UP` on interface 1, which is the loopback in every network namespace, and asks for an answer.
fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(32u32.to_ne_bytes()); // length
    bytes.extend(16u16.to_ne_bytes()); // RTM_NEWLINK
    bytes.extend(0x5u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    bytes.extend(1u32.to_ne_bytes()); // sequence
    bytes.extend(0u32.to_ne_bytes()); // from: the kernel knows
    bytes.extend([0, 0]); // any family
    bytes.extend(0u16.to_ne_bytes()); // type
    bytes.extend(1i32.to_ne_bytes()); // interface
    bytes.extend(1u32.to_ne_bytes()); // flags: IFF_UP
    bytes.extend(1u32.to_ne_bytes()); // of which these change
    bytes
}

pub(super) fn up() -> io::Result<()> {
    // No protocol is number 0, NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 256];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // Behind the header of 16 bytes stands the negated error.
    match answer
        .get(16..20)
        .filter(|_| length >= 20)
        .map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]))
    {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut")),
    }
}
