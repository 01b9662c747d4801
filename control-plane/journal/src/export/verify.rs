//! Verification of an exported ledger: leaves are hashed on several threads, the chain is followed on one.
//!
//! ```text
//!   reader --blocks, in turn--> workers: checksum, leaves, statements of keys --in turn--> chain, order, signatures
//! ```
//! Invariant: what is reported is the first fault in the order of the file.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use mindos_model::{Seq, Timestamp};

use super::block::{self, Block, BlockHead, Kinds, Leaf, Raw};
use super::fault::{ExportFault, Stop, Wrong, fault};
use super::head::{FOOT_BYTES, FOOT_MAGIC, Flags, Foot, Head, PREFIX_BYTES};
use super::statement::Statement;
use super::write::BLOCK_HEAD_BYTES;
use crate::chain::{self, Link};
use crate::signing::{Checkpoint, KeyId, KnownKey, PublicKey, TrustedKeys, hex};

/// Blocks that may wait at each worker.
const BLOCKS_WAIT: usize = 4;
/// Links that are kept for checkpoints, which come soon after what they cover.
const LINKS_KEPT: usize = 1 << 18;

/// What is known beside the file.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Keys that are trusted; those that they vouch for are too.
    pub keys: Vec<PublicKey>,
    /// Checkpoints that were noted elsewhere.
    pub anchors: Vec<Anchor>,
    /// The file has to reach up to here; an anchor beyond it then is no fault.
    pub through: Option<Seq>,
    /// Threads that hash; zero for as many as there are cores.
    pub threads: usize,
}

/// A checkpoint noted elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The journal it is of.
    pub log_id: [u8; 16],
    /// The checkpoint.
    pub checkpoint: Checkpoint,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Names the journal.
    pub log_id: [u8; 16],
    /// When the file was made, as it says.
    pub made: Timestamp,
    /// What was left out, as it says.
    pub flags: Flags,
    /// First record.
    pub first: Seq,
    /// Last record that is good; the one before the first if none is.
    pub last: Seq,
    /// Link after it.
    pub link: Link,
    /// How many records are good.
    pub records: u64,
    /// How many payloads were redacted.
    pub redacted: u64,
    /// How many payloads were left out.
    pub left_out: u64,
    /// How many records are another tenant's, and only leaves here.
    pub leaf_only: u64,
    /// How many signatures by trusted keys hold.
    pub checkpoints: u64,
    /// How many are by keys that are not trusted; trusted ones behind them cover the same records.
    pub by_others: u64,
    /// Last record that such a signature covers.
    pub signed_through: Seq,
    /// Keys that are trusted, those that were given first.
    pub keys: Vec<PublicKey>,
    /// How many anchors agree.
    pub anchors: u64,
    /// The first thing that is wrong.
    pub fault: Option<ExportFault>,
}

/// Reads a file to its end or to the first fault. `progress` is told now and then how many records were good.
///
/// # Errors
/// When the file cannot be read. What is wrong with it is no error but in the report.
pub fn verify(file: impl Read + Send, options: &VerifyOptions, mut progress: impl FnMut(u64)) -> io::Result<Report> {
    let mut report = Report {
        log_id: [0; 16],
        made: Timestamp(0),
        flags: Flags::default(),
        first: Seq(0),
        last: Seq(0),
        link: [0; 32],
        records: 0,
        redacted: 0,
        left_out: 0,
        leaf_only: 0,
        checkpoints: 0,
        by_others: 0,
        signed_through: Seq(0),
        keys: options.keys.clone(),
        anchors: 0,
        fault: None,
    };
    match verify_into(file, options, &mut report, &mut progress) {
        Ok(()) => {}
        Err(Stop::Fault(fault)) => report.fault = Some(fault),
        Err(Stop::Io(error)) => return Err(error),
    }
    Ok(report)
}

fn verify_into(
    mut file: impl Read + Send,
    options: &VerifyOptions,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Stop> {
    let (head, offset) = read_head(&mut file)?;
    report.log_id = head.log_id;
    report.made = head.made;
    report.flags = head.flags;
    report.first = head.first;
    report.last = Seq(head.first.0 - 1);
    report.link = head.previous;
    let mut chain = Chain::new(&head, options, report)?;
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(2, std::num::NonZero::get).min(16),
        threads => threads.min(64),
    };
    let end = thread::scope(|scope| {
        let (mut to, mut from) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (send, receive) = sync_channel::<Raw>(BLOCKS_WAIT);
            let (give, get) = sync_channel::<Block>(BLOCKS_WAIT);
            scope.spawn(move || work(&receive, &give));
            to.push(send);
            from.push(get);
        }
        let reader = scope.spawn(move || read_blocks(&mut file, offset, &to));
        let mut blocks = InTurn { from, turn: 0, ahead: None };
        let followed = follow(&mut chain, &mut blocks, progress);
        // What waits is let go, so that everybody comes to an end.
        drop(blocks);
        let read = reader.join().expect("the reader does not panic");
        followed?;
        read
    })?;
    chain.end(end, options)
}

/// Takes what the workers made, in the order of the file.
struct InTurn {
    from: Vec<Receiver<Block>>,
    turn: usize,
    ahead: Option<Block>,
}

impl InTurn {
    fn next(&mut self) -> Option<Block> {
        if let Some(block) = self.ahead.take() {
            return Some(block);
        }
        let block = self.from[self.turn].recv().ok()?;
        self.turn = (self.turn + 1) % self.from.len();
        Some(block)
    }

    fn peek(&mut self) -> Option<&Block> {
        self.ahead = self.next();
        self.ahead.as_ref()
    }
}

fn work(raws: &Receiver<Raw>, blocks: &SyncSender<Block>) {
    for raw in raws {
        if blocks.send(block::open(&raw)).is_err() {
            return;
        }
    }
}

/// Where the blocks end, and what stands there.
#[derive(Debug)]
enum End {
    Foot {
        foot: Foot,
        offset: u64,
    },
    /// No block and no foot can be read.
    Wrong {
        offset: u64,
        wrong: Wrong,
    },
}

fn read_head(file: &mut impl Read) -> Result<(Head, u64), Stop> {
    let at_head = |offset, wrong| Stop::from(fault(0, offset, wrong));
    let mut prefix = [0; PREFIX_BYTES];
    if read_up_to(file, &mut prefix)? < PREFIX_BYTES {
        return Err(at_head(0, Wrong::NoExport));
    }
    let length = Head::length(&prefix).map_err(|wrong| at_head(0, wrong))?;
    let mut body = vec![0; length];
    if read_up_to(file, &mut body)? < length {
        return Err(at_head(PREFIX_BYTES as u64, Wrong::Truncated));
    }
    let head = Head::decode(&prefix, &body).map_err(|wrong| at_head(0, wrong))?;
    Ok((head, (PREFIX_BYTES + length) as u64))
}

/// Reads blocks and hands them to the workers in turn.
fn read_blocks(file: &mut impl Read, mut offset: u64, to: &[SyncSender<Raw>]) -> Result<End, Stop> {
    let mut turn = 0;
    loop {
        let wrong = |wrong| Ok(End::Wrong { offset, wrong });
        let mut head = [0; BLOCK_HEAD_BYTES];
        let read = read_up_to(file, &mut head)?;
        if head[..8] == FOOT_MAGIC && read == BLOCK_HEAD_BYTES {
            let mut foot = [0; FOOT_BYTES];
            foot[..BLOCK_HEAD_BYTES].copy_from_slice(&head);
            if read_up_to(file, &mut foot[BLOCK_HEAD_BYTES..])? < FOOT_BYTES - BLOCK_HEAD_BYTES {
                return wrong(Wrong::Truncated);
            }
            return match Foot::decode(&foot) {
                Err(found) => wrong(found),
                Ok(_) if read_up_to(file, &mut [0])? > 0 => {
                    Ok(End::Wrong { offset: offset + FOOT_BYTES as u64, wrong: Wrong::Trailing })
                }
                Ok(foot) => Ok(End::Foot { foot, offset }),
            };
        }
        if read < BLOCK_HEAD_BYTES {
            return wrong(Wrong::Truncated);
        }
        let Some(parsed) = BlockHead::parse(&head) else { return wrong(Wrong::Unreadable) };
        // As much is taken as comes, so that a length which is a lie costs nothing.
        let mut bytes = Vec::new();
        file.by_ref().take(parsed.length as u64).read_to_end(&mut bytes)?;
        let is_whole = bytes.len() == parsed.length;
        let size = (BLOCK_HEAD_BYTES + bytes.len()) as u64;
        // The records of a block that is cut off are looked at too.
        if to[turn].send(Raw { head: parsed, offset, bytes }).is_err() {
            return wrong(Wrong::Truncated);
        }
        turn = (turn + 1) % to.len();
        offset += size;
        if !is_whole {
            return Ok(End::Wrong { offset, wrong: Wrong::Truncated });
        }
    }
}

fn read_up_to(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn follow(chain: &mut Chain<'_>, blocks: &mut InTurn, progress: &mut dyn FnMut(u64)) -> Result<(), Stop> {
    let mut told = 0;
    while let Some(block) = blocks.next() {
        let cut_off = block.fault.as_ref().is_some_and(|fault| fault.wrong == Wrong::Unreadable);
        let follower = if block.first > chain.next() { blocks.peek().map(|next| next.first) } else { None };
        if let Some(first) = follower
            && first == chain.next()
        {
            return Err(fault(first, block.offset, Wrong::Swapped { with: Seq(block.first) }).into());
        }
        chain.block(&block)?;
        if let Some(fault) = block.fault {
            // A file that was cut within a block ends with an entry that cannot be read.
            if cut_off && blocks.peek().is_none() {
                chain.cut = Some(fault);
                return Ok(());
            }
            return Err(fault.into());
        }
        if chain.report.records - told >= 100_000 {
            told = chain.report.records;
            progress(told);
        }
    }
    Ok(())
}

/// The chain as far as it was followed.
struct Chain<'a> {
    report: &'a mut Report,
    keys: TrustedKeys,
    /// Keys that the file names, for people.
    named: Vec<KeyId>,
    /// The last links, the newest last.
    links: VecDeque<Link>,
    /// Anchors that are not reached yet, by what they cover.
    anchors: Vec<Checkpoint>,
    /// An entry behind the last whole one.
    cut: Option<ExportFault>,
}

impl<'a> Chain<'a> {
    fn new(head: &Head, options: &VerifyOptions, report: &'a mut Report) -> Result<Chain<'a>, Stop> {
        let mut keys = TrustedKeys::new(head.log_id, &options.keys);
        for known in &head.keys {
            keys.meet(known).map_err(|key| fault(head.first.0, 0, Wrong::KeyNotVouched { key }))?;
        }
        let mut anchors = Vec::new();
        for anchor in &options.anchors {
            if anchor.log_id != head.log_id {
                let (anchored, found) = (hex(&anchor.log_id), hex(&head.log_id));
                return Err(fault(head.first.0, 0, Wrong::AnchorForeign { anchored, found }).into());
            }
            anchors.push(anchor.checkpoint);
        }
        anchors.sort_by_key(|anchor| std::cmp::Reverse(anchor.through));
        // What an anchor says of records before the first one cannot be checked here, but of the one right before it.
        while anchors.last().is_some_and(|anchor| anchor.through.0 + 1 < head.first.0) {
            anchors.pop();
        }
        let named = head.keys.iter().map(|known| known.public.id()).collect();
        let mut chain = Chain { report, keys, named, links: VecDeque::new(), anchors, cut: None };
        chain.links.push_back(head.previous);
        chain.report.keys = chain.keys.keys().to_vec();
        chain.anchored(head.first.0 - 1, 0)?;
        Ok(chain)
    }

    fn next(&self) -> u64 {
        self.report.last.0 + 1
    }

    fn block(&mut self, block: &Block) -> Result<(), Stop> {
        let mut statements = block.statements.iter().peekable();
        for (place, leaf) in block.leaves.iter().enumerate() {
            self.leaf(place, leaf, &block.leaves)?;
            while let Some((_, statement)) = statements.next_if(|(at, _)| *at == place) {
                self.statement(statement, leaf)?;
            }
        }
        let Kinds { redacted, left_out, leaf_only } = block.kinds;
        self.report.redacted += redacted;
        self.report.left_out += left_out;
        self.report.leaf_only += leaf_only;
        Ok(())
    }

    fn leaf(&mut self, place: usize, leaf: &Leaf, leaves: &[Leaf]) -> Result<(), Stop> {
        let next = self.next();
        let wrong = |wrong| Err(fault(next, leaf.offset, wrong).into());
        if leaf.seq != next {
            let found = Seq(leaf.seq);
            let follows = leaves.get(place + 1).is_some_and(|follower| follower.seq == next);
            return match leaf.seq > next {
                true if follows => wrong(Wrong::Swapped { with: found }),
                true => wrong(Wrong::Dropped { count: leaf.seq - next, found }),
                false => wrong(Wrong::OutOfOrder { found }),
            };
        }
        let link = chain::link(&self.report.link, next, &leaf.leaf);
        if link[..8] != leaf.mark {
            // Another record's content may have been put here under this one's number.
            let fits = |other: &&Leaf| {
                other.seq != next && chain::link(&self.report.link, next, &other.leaf)[..8] == leaf.mark
            };
            return match leaves[place..].iter().find(fits) {
                Some(other) => wrong(Wrong::Swapped { with: Seq(other.seq) }),
                None => wrong(Wrong::Altered),
            };
        }
        self.report.link = link;
        self.report.last = Seq(next);
        self.report.records += 1;
        if self.links.len() == LINKS_KEPT {
            self.links.pop_front();
        }
        self.links.push_back(link);
        self.anchored(next, leaf.offset)
    }

    /// Holds the anchors of `seq` against its link.
    fn anchored(&mut self, seq: u64, offset: u64) -> Result<(), Stop> {
        while let Some(anchor) = self.anchors.pop_if(|anchor| anchor.through.0 == seq) {
            if anchor.link != self.report.link {
                return Err(fault(seq, offset, Wrong::AnchorDiffers { anchored: anchor.through }).into());
            }
            self.report.anchors += 1;
        }
        Ok(())
    }

    /// The link after `seq`, if it is one of the last.
    fn link_of(&self, seq: Seq) -> Option<&Link> {
        let back = self.report.last.0.checked_sub(seq.0)?;
        let place = self.links.len().checked_sub(1 + usize::try_from(back).ok()?)?;
        self.links.get(place)
    }

    fn statement(&mut self, statement: &Statement, leaf: &Leaf) -> Result<(), Stop> {
        match statement {
            Statement::Checkpoint(checkpoint) => self.checkpoint(checkpoint, leaf.seq, leaf.offset),
            Statement::Key { public, since, signatures } => {
                self.named.push(public.id());
                let trusted: Vec<KeyId> = self.keys.keys().iter().map(PublicKey::id).collect();
                for (old, signature) in trusted.iter().flat_map(|old| signatures.iter().map(move |one| (old, one))) {
                    let known = KnownKey { public: *public, since: *since, by_old: Some((*old, *signature)) };
                    // Whose signature it is, the record does not say: those of others prove nothing against it.
                    let _ = self.keys.meet(&known);
                }
                self.report.keys = self.keys.keys().to_vec();
                Ok(())
            }
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint, seq: u64, offset: u64) -> Result<(), Stop> {
        let Checkpoint { through: signed, key, .. } = *checkpoint;
        let Some(public) = self.keys.get(&key) else {
            self.report.by_others += 1;
            return Ok(());
        };
        // One from before the file begins cannot be checked.
        let Some(link) = self.link_of(signed) else { return Ok(()) };
        if !checkpoint.is_by(public, &self.report.log_id) {
            return Err(fault(seq, offset, Wrong::Signature { key, signed }).into());
        }
        if *link != checkpoint.link {
            let good = self.report.signed_through.max(Seq(self.report.first.0 - 1));
            return Err(fault(good.0 + 1, offset, Wrong::Rewritten { key, signed, good }).into());
        }
        self.report.checkpoints += 1;
        self.report.signed_through = self.report.signed_through.max(signed);
        Ok(())
    }

    /// Holds what stands behind the records against them.
    fn end(&mut self, end: End, options: &VerifyOptions) -> Result<(), Stop> {
        let next = self.next();
        let (foot, offset) = match end {
            End::Foot { foot, offset } => (foot, offset),
            End::Wrong { offset, wrong } => {
                let offset = self.cut.as_ref().map_or(offset, |cut| cut.offset);
                return Err(fault(next, offset, wrong).into());
            }
        };
        if let Some(cut) = self.cut.take() {
            return Err(cut.into());
        }
        let Report { records, last, link, .. } = *self.report;
        if (foot.count, foot.last) != (records, last) {
            let (count, found, found_last) = (foot.count, records, last);
            return Err(fault(next, offset, Wrong::Count { count, last: foot.last, found, found_last }).into());
        }
        if foot.link != link {
            return Err(fault(last.0, offset, Wrong::Foot).into());
        }
        if let Some(checkpoint) = &foot.checkpoint {
            self.checkpoint(checkpoint, last.0, offset)?;
        }
        if let Some(wanted) = options.through.filter(|wanted| *wanted > last) {
            return Err(fault(next, offset, Wrong::Short { wanted }).into());
        }
        if options.through.is_none()
            && let Some(anchor) = self.anchors.first()
        {
            return Err(fault(next, offset, Wrong::AnchorPastEnd { anchored: anchor.through }).into());
        }
        let signed = self.report.signed_through;
        if self.report.checkpoints == 0 {
            let keys: Vec<String> = self.named.iter().map(|key| hex(key)).collect();
            return Err(fault(self.report.first.0, offset, Wrong::Unsigned { keys: keys.join(", ") }).into());
        }
        if signed < last {
            return Err(fault(signed.0 + 1, offset, Wrong::UnsignedEnd { last }).into());
        }
        Ok(())
    }
}
