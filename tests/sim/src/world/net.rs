//! The network: streams that delay, stop, and end for one side only. Within a stream the order holds.

use mindos_core::input::{Input, SessionId};
use mindos_core::output::PlaneMessage;
use mindos_sidecar_core::Up;

use super::{Event, World};
use crate::faults::Fault;
use crate::ledger::Broken;
use crate::wire;

/// A stream between an agent's boot and the plane.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) agent: usize,
    pub(super) boot: u32,
    up_last: u64,
    down_last: u64,
    /// Nothing goes through any more.
    dead: bool,
    pub(super) plane_open: bool,
    pub(super) agent_open: bool,
    /// Messages that came down.
    number: u64,
}

impl Conn {
    /// How long until all that was sent up has arrived.
    pub(super) fn in_flight(&self, now: u64) -> u64 {
        self.up_last.saturating_sub(now) + 1
    }

    pub(super) fn is_sound(&self) -> bool {
        !self.dead && self.plane_open
    }
}

impl World {
    pub(super) fn open(&mut self, agent: usize, boot: u32) -> u64 {
        let session = self.next_session;
        self.next_session += 1;
        let conn = Conn {
            agent,
            boot,
            up_last: self.now,
            down_last: self.now,
            dead: false,
            plane_open: true,
            agent_open: true,
            number: 0,
        };
        self.conns.insert(session, conn);
        self.owners.insert(session, agent);
        session
    }

    fn delay(&mut self) -> u64 {
        if !self.healing && self.chance.permille(self.mood.long_delay) {
            self.suffer(Fault::LongDelay);
            return self.chance.within(2001, 7000);
        }
        self.chance.skewed(0, self.mood.delay)
    }

    pub(super) fn send_up(&mut self, session: u64, message: Up<()>) {
        let delay = self.delay();
        let Some(conn) = self.conns.get_mut(&session).filter(|conn| !conn.dead && conn.agent_open) else { return };
        conn.up_last = conn.up_last.max(self.now + delay);
        let after = conn.up_last - self.now;
        self.at(after, Event::Up { session, message: Box::new(message) });
    }

    pub(super) fn arrived_up(&mut self, session: u64, message: Up<()>) -> Result<(), Broken> {
        let Some(conn) = self.conns.get(&session).filter(|conn| !conn.dead && conn.plane_open) else { return Ok(()) };
        let host = &self.hosts[conn.agent];
        if host.boot != conn.boot {
            return Ok(());
        }
        for input in wire::up(SessionId(session), &host.key, &host.config, message) {
            self.input(input);
        }
        Ok(())
    }

    pub(super) fn send_down(&mut self, session: u64, message: PlaneMessage) {
        let delay = self.delay();
        let Some(conn) = self.conns.get_mut(&session).filter(|conn| !conn.dead && conn.plane_open) else { return };
        conn.down_last = conn.down_last.max(self.now + delay);
        let after = conn.down_last - self.now;
        self.at(after, Event::Down { session, message: Box::new(message) });
    }

    pub(super) fn arrived_down(&mut self, session: u64, message: PlaneMessage) -> Result<(), Broken> {
        let Some(conn) = self.conns.get_mut(&session).filter(|conn| !conn.dead && conn.agent_open) else {
            return Ok(());
        };
        conn.number += 1;
        let (agent, boot, number) = (conn.agent, conn.boot, conn.number);
        self.heard(agent, boot, session, number, message)
    }

    /// The stream breaks; who notices, and when, is up to the kind.
    pub(super) fn cut(&mut self, session: u64, fault: Fault) {
        let Some(conn) = self.conns.get_mut(&session).filter(|conn| !conn.dead) else { return };
        conn.dead = true;
        self.suffer(fault);
        let soon = self.chance.within(0, 200);
        // What finds a dead stream is the keepalive of the transport.
        let later = self.chance.within(8000, 20_000);
        let agent_after = if matches!(fault, Fault::StreamCut | Fault::HalfOpenAtPlane) { soon } else { later };
        self.at(agent_after, Event::AgentSees { session });
        if matches!(fault, Fault::StreamCut | Fault::HalfOpenAtAgent) {
            let after = self.chance.within(0, 200);
            self.at(after, Event::PlaneSees { session });
        }
    }

    pub(super) fn plane_sees(&mut self, session: u64) {
        let Some(conn) = self.conns.get_mut(&session).filter(|conn| conn.plane_open) else { return };
        conn.plane_open = false;
        self.input(Input::Closed { session: SessionId(session) });
        self.forget_conn(session);
    }

    /// The plane ends a stream.
    pub(super) fn plane_closes(&mut self, session: u64) {
        let Some(conn) = self.conns.get_mut(&session) else { return };
        conn.plane_open = false;
        let after = if conn.dead { return } else { conn.down_last.saturating_sub(self.now) + 1 };
        self.at(after, Event::AgentSees { session });
    }

    /// The agent ends its stream in order: what it had sent arrives before.
    pub(super) fn agent_closes(&mut self, session: u64) {
        let Some(conn) = self.conns.get_mut(&session) else { return };
        conn.agent_open = false;
        if conn.dead {
            return;
        }
        let after = conn.up_last.saturating_sub(self.now) + 1;
        self.at(after, Event::PlaneSees { session });
    }

    pub(super) fn agent_sees(&mut self, session: u64) -> Result<(), Broken> {
        let Some(conn) = self.conns.get_mut(&session).filter(|conn| conn.agent_open) else { return Ok(()) };
        conn.agent_open = false;
        conn.dead = true;
        let (agent, boot) = (conn.agent, conn.boot);
        self.forget_conn(session);
        self.stream_lost(agent, boot, session)
    }

    fn forget_conn(&mut self, session: u64) {
        if self.conns.get(&session).is_some_and(|conn| !conn.plane_open && !conn.agent_open) {
            self.conns.remove(&session);
        }
    }

    /// The plane's process is gone: agents notice at once, or by their keepalive.
    pub(super) fn plane_gone(&mut self) {
        let mut sessions: Vec<u64> = self.conns.keys().copied().collect();
        sessions.sort_unstable();
        for session in sessions {
            let late = self.chance.permille(200);
            let after = if late { self.chance.within(8000, 20_000) } else { self.chance.within(0, 100) };
            let Some(conn) = self.conns.get_mut(&session) else { continue };
            let was_dead = conn.dead;
            conn.plane_open = false;
            conn.dead = true;
            if conn.agent_open && !was_dead {
                self.at(after, Event::AgentSees { session });
            }
            self.forget_conn(session);
        }
    }
}
