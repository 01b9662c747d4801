use std::io::Cursor;

use mindos_model::{Seq, Timestamp};

use super::statement::testing as record;
use super::write::BLOCK_HEAD_BYTES;
use super::*;
use crate::chain::{genesis, payload_digest};
use crate::fault::Random;
use crate::frame::{Entry, Payload};
use crate::keyring::testing::SigningKey;
use crate::signing::{KnownKey, PublicKey};
use crate::testing::{metadata, payload};

const LOG: [u8; 16] = [7; 16];

type SaltedPayload = Option<([u8; 16], Vec<u8>)>;

/// A ledger of so many records, with checkpoints and a rotated key in it.
struct Made {
    keys: Vec<SigningKey>,
    entries: Vec<(Vec<u8>, SaltedPayload)>,
    links: Vec<[u8; 32]>,
}

fn make(records: u64) -> Made {
    let keys = vec![SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32])];
    let mut made = Made { keys, entries: Vec::new(), links: vec![genesis(&LOG)] };
    for seq in 1..=records {
        let signer = &made.keys[usize::from(seq > records / 2)];
        let link = *made.links.last().unwrap();
        let entry = match seq {
            _ if seq == records / 2 => (record::key(seq, &made.known(1)), None),
            _ if seq % 25 == 0 => (record::checkpoint(seq, &signer.checkpoint(&LOG, Seq(seq - 1), link)), None),
            _ => (metadata(seq), payload(seq)),
        };
        made.entries.push(entry);
        let leaf = made.entry(seq).leaf();
        made.links.push(crate::chain::link(&link, seq, &leaf));
    }
    made
}

impl Made {
    fn known(&self, at: usize) -> KnownKey {
        let public = self.keys[at].public();
        let old = at.checked_sub(1).map(|old| &self.keys[old]);
        let by_old = old.map(|old| (old.public().id(), old.vouch(&LOG, &public)));
        KnownKey { public, since: Seq(at as u64), by_old }
    }

    fn entry(&self, seq: u64) -> Entry<'_> {
        let (metadata, payload) = &self.entries[usize::try_from(seq - 1).unwrap()];
        let payload = payload.as_ref().map(|(salt, bytes)| Payload { salt, bytes });
        Entry { seq: Seq(seq), metadata, payload, redacted: None }
    }

    fn head(&self, first: u64) -> Head {
        let previous = self.links[usize::try_from(first - 1).unwrap()];
        let keys = vec![self.known(0), self.known(1)];
        Head { log_id: LOG, first: Seq(first), previous, made: Timestamp(5), flags: Flags::default(), keys }
    }

    fn export(&self, first: u64, through: u64, mut shown: impl FnMut(u64) -> Shown) -> Vec<u8> {
        let mut writer = ExportWriter::new(&self.head(first));
        for seq in first..=through {
            writer.push(&self.entry(seq), shown(seq));
            if seq % 40 == 0 {
                writer.end_block();
            }
        }
        let link = writer.link();
        assert_eq!(link, self.links[usize::try_from(through).unwrap()]);
        writer.finish(Some(self.keys[1].checkpoint(&LOG, Seq(through), link)))
    }

    fn whole(&self) -> Vec<u8> {
        self.export(1, self.entries.len() as u64, |_| Shown::Whole)
    }

    fn anchor(&self, through: u64) -> Anchor {
        let link = self.links.get(usize::try_from(through).unwrap()).copied().unwrap_or([1; 32]);
        Anchor { log_id: LOG, checkpoint: self.keys[1].checkpoint(&LOG, Seq(through), link) }
    }

    /// Entries of the file one by one: where each begins, and its bytes.
    fn split(file: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = head_bytes(file);
        while &file[at..at + 4] == b"MDLB" {
            let length = u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
            let end = at + BLOCK_HEAD_BYTES + length;
            at += BLOCK_HEAD_BYTES;
            while at < end {
                let length = |from: usize| u32::from_le_bytes(file[at + from..at + from + 4].try_into().unwrap());
                let size = match file[at] {
                    block::PLAIN => 21 + length(17),
                    block::PAYLOAD => 17 + 24 + length(17) + length(21),
                    block::LEAF_ONLY => 49,
                    _ => 17 + 36 + length(17),
                } as usize;
                found.push((at, file[at..at + size].to_vec()));
                at += size;
            }
        }
        found
    }
}

fn head_bytes(file: &[u8]) -> usize {
    20 + u32::from_le_bytes(file[16..20].try_into().unwrap()) as usize
}

/// A file with these entries, its checksums made to fit: the work of somebody who knows the format.
fn forge(file: &[u8], entries: &[Vec<u8>]) -> Vec<u8> {
    let mut forged = file[..head_bytes(file)].to_vec();
    for chunk in entries.chunks(50) {
        let body = chunk.concat();
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let count = u32::try_from(chunk.len()).unwrap().to_le_bytes();
        let first = &chunk[0][1..9];
        let crc = crc_of(&[&length, &count, first, &body]).to_le_bytes();
        forged.extend([b"MDLB", &length[..], &crc, &count, first, &body].concat());
    }
    forged.extend(&file[file.len() - head::FOOT_BYTES..]);
    forged
}

fn check(file: &[u8], keys: &[PublicKey], anchors: Vec<Anchor>) -> Report {
    let options = VerifyOptions { keys: keys.to_vec(), anchors, through: None, threads: 2 };
    verify(Cursor::new(file), &options, |_| {}).unwrap()
}

fn fault_of(file: &[u8], made: &Made) -> ExportFault {
    check(file, &[made.keys[0].public()], Vec::new()).fault.expect("something is wrong")
}

#[test]
fn a_whole_ledger_verifies_with_the_first_key_alone() {
    let made = make(500);
    let file = made.whole();
    let report = check(&file, &[made.keys[0].public()], vec![made.anchor(300), made.anchor(500)]);
    assert_eq!(report.fault, None);
    assert_eq!((report.first, report.last, report.records), (Seq(1), Seq(500), 500));
    assert_eq!((report.link, report.signed_through), (made.links[500], Seq(500)));
    assert_eq!((report.keys.len(), report.anchors, report.by_others), (2, 2, 0));
    assert_eq!(report.checkpoints, 20, "19 in the records, one in the foot");
}

#[test]
fn a_later_key_alone_proves_what_an_earlier_one_signed() {
    let made = make(500);
    let report = check(&made.whole(), &[made.keys[1].public()], Vec::new());
    assert_eq!((report.fault, report.signed_through), (None, Seq(500)));
    assert!(report.by_others > 0);
}

#[test]
fn what_is_left_out_changes_no_link() {
    let made = make(300);
    for shown in [Shown::WithoutPayload, Shown::LeafOnly] {
        let file = made.export(1, 300, |seq| if seq % 2 == 1 { shown } else { Shown::Whole });
        let report = check(&file, &[made.keys[0].public()], Vec::new());
        assert_eq!((report.fault, report.link), (None, made.links[300]));
        let odd = (1..=300).filter(|seq| seq % 2 == 1);
        let left_out = odd.clone().filter(|seq| made.entry(*seq).payload.is_some()).count() as u64;
        match shown {
            Shown::LeafOnly => assert_eq!((report.leaf_only, report.left_out), (150, 0)),
            _ => assert_eq!((report.leaf_only, report.left_out), (0, left_out)),
        }
        let missing = odd.filter_map(|seq| made.entry(seq).payload.map(|payload| payload.bytes));
        for bytes in missing.filter(|bytes| bytes.len() > 20) {
            assert!(!file.windows(bytes.len()).any(|window| window == bytes));
        }
    }
}

#[test]
fn a_part_verifies_on_its_own_and_a_resumed_one_is_the_same() {
    let made = make(300);
    let file = made.export(101, 260, |_| Shown::Whole);
    let report = check(&file, &[made.keys[1].public()], vec![made.anchor(100), made.anchor(260), made.anchor(20)]);
    assert_eq!((report.fault, report.first, report.last, report.anchors), (None, Seq(101), Seq(260), 2));

    let mut writer = ExportWriter::new(&made.head(101));
    for seq in 101..=180 {
        writer.push(&made.entry(seq), Shown::Whole);
        if seq % 40 == 0 {
            writer.end_block();
        }
    }
    let mut halves = writer.take();
    let through = writer.through();
    assert_eq!(through, Seq(160));
    let mut rest = ExportWriter::resume(Seq(101), through.next(), made.links[160]);
    for seq in 161..=260 {
        rest.push(&made.entry(seq), Shown::Whole);
        if seq % 40 == 0 {
            rest.end_block();
        }
    }
    let link = rest.link();
    halves.extend(rest.finish(Some(made.keys[1].checkpoint(&LOG, Seq(260), link))));
    assert_eq!(halves, file);
}

#[test]
fn a_dropped_record_is_found_and_located() {
    let made = make(300);
    let file = made.whole();
    let entries = Made::split(&file);
    for seq in [2, 77, 150, 299] {
        let mut kept: Vec<_> = entries.iter().map(|(_, bytes)| bytes.clone()).collect();
        kept.remove(seq - 1);
        let fault = fault_of(&forge(&file, &kept), &made);
        assert_eq!(fault.seq, Seq(seq as u64));
        assert!(matches!(fault.wrong, Wrong::Dropped { count: 1, .. }), "{fault}");
        // Numbered anew, it is the first one behind that does not fit.
        for (at, entry) in kept.iter_mut().enumerate() {
            entry[1..9].copy_from_slice(&(at as u64 + 1).to_le_bytes());
        }
        let fault = fault_of(&forge(&file, &kept), &made);
        assert_eq!((fault.seq, fault.wrong), (Seq(seq as u64), Wrong::Altered));
    }
}

#[test]
fn swapped_records_are_found_and_located() {
    let made = make(300);
    let file = made.whole();
    let entries = Made::split(&file);
    for seq in [3_usize, 120, 130] {
        let mut swapped: Vec<_> = entries.iter().map(|(_, bytes)| bytes.clone()).collect();
        swapped.swap(seq - 1, seq);
        let fault = fault_of(&forge(&file, &swapped), &made);
        assert_eq!((fault.seq, fault.wrong), (Seq(seq as u64), Wrong::Swapped { with: Seq(seq as u64 + 1) }));
        // Their content alone, under the right numbers and with the right links beside them.
        for at in [seq - 1, seq] {
            let head = entries[at].1[1..17].to_vec();
            swapped[at][1..17].copy_from_slice(&head);
        }
        let fault = fault_of(&forge(&file, &swapped), &made);
        assert_eq!((fault.seq, fault.wrong), (Seq(seq as u64), Wrong::Swapped { with: Seq(seq as u64 + 1) }));
    }
}

#[test]
fn every_altered_byte_is_found_and_located() {
    let made = make(200);
    let file = made.whole();
    let entries = Made::split(&file);
    let mut random = Random::new(3);
    for _ in 0..300 {
        let at = usize::try_from(random.below(file.len() as u64)).unwrap();
        let mut altered = file.clone();
        altered[at] ^= 1 << random.below(8);
        let fault = fault_of(&altered, &made);
        // The entry's own record is named, whatever was changed in it but a length.
        let owner = entries.iter().position(|(start, bytes)| (*start..start + bytes.len()).contains(&at));
        if let Some(owner) = owner
            && !(17..25).contains(&(at - entries[owner].0))
        {
            assert_eq!(fault.seq, Seq(owner as u64 + 1), "{at}: {fault}");
            assert_eq!(fault.offset, entries[owner].0 as u64, "{at}: {fault}");
        }
    }
}

#[test]
fn an_altered_record_is_found_also_when_the_checksums_are_made_to_fit() {
    let made = make(200);
    let file = made.whole();
    let entries = Made::split(&file);
    for seq in [1_usize, 42, 133] {
        let mut altered: Vec<_> = entries.iter().map(|(_, bytes)| bytes.clone()).collect();
        *altered[seq - 1].last_mut().unwrap() ^= 4;
        let fault = fault_of(&forge(&file, &altered), &made);
        assert_eq!((fault.seq, fault.wrong), (Seq(seq as u64), Wrong::Altered));
    }
}

#[test]
fn a_record_that_was_rewritten_with_all_links_behind_it_breaks_the_next_signature() {
    let made = make(200);
    let mut forged = make(200);
    forged.entries[60].0[0] ^= 1;
    // The forger has no key: what was signed is copied.
    let mut link = forged.links[60];
    for seq in 61..=200 {
        link = crate::chain::link(&link, seq, &forged.entry(seq).leaf());
        forged.links[usize::try_from(seq).unwrap()] = link;
    }
    let file = forged.whole();
    let fault = fault_of(&file, &made);
    // Checkpoints stand at 25, 50, 75: the one at 50 is the last that is good.
    assert_eq!(fault.seq, Seq(50));
    assert!(matches!(fault.wrong, Wrong::Rewritten { signed: Seq(74), good: Seq(49), .. }), "{fault}");
}

#[test]
fn a_truncated_file_is_found_at_every_length() {
    let made = make(60);
    let file = made.whole();
    let entries = Made::split(&file);
    for length in 0..file.len() {
        let fault = fault_of(&file[..length], &made);
        if length >= head_bytes(&file) {
            assert!(matches!(fault.wrong, Wrong::Truncated), "{length}: {fault}");
            let whole = entries.iter().take_while(|(start, bytes)| start + bytes.len() <= length).count() as u64;
            assert_eq!(fault.seq, Seq(whole + 1), "{length}: {fault}");
        }
    }
    let mut longer = file;
    longer.push(0);
    assert_eq!(fault_of(&longer, &made).wrong, Wrong::Trailing);
}

#[test]
fn a_cut_tail_with_a_foot_made_to_fit_is_found_by_its_missing_signature_and_by_an_anchor() {
    let made = make(300);
    let mut writer = ExportWriter::new(&made.head(1));
    (1..=280).for_each(|seq| writer.push(&made.entry(seq), Shown::Whole));
    let cut = writer.finish(None);
    let fault = fault_of(&cut, &made);
    assert_eq!((fault.seq, fault.wrong), (Seq(275), Wrong::UnsignedEnd { last: Seq(280) }));
    // Even the signature of an earlier, honest export does not hide it from an anchor.
    let earlier = made.export(1, 280, |_| Shown::Whole);
    assert_eq!(check(&earlier, &[made.keys[0].public()], vec![made.anchor(280)]).fault, None);
    let fault = check(&earlier, &[made.keys[0].public()], vec![made.anchor(300)]).fault.unwrap();
    assert_eq!((fault.seq, fault.wrong), (Seq(281), Wrong::AnchorPastEnd { anchored: Seq(300) }));
    let options = VerifyOptions { through: Some(Seq(290)), keys: vec![made.keys[0].public()], ..Default::default() };
    let fault = verify(Cursor::new(&earlier), &options, |_| {}).unwrap().fault.unwrap();
    assert_eq!((fault.seq, fault.wrong), (Seq(281), Wrong::Short { wanted: Seq(290) }));
}

#[test]
fn strangers_prove_nothing() {
    let made = make(200);
    let file = made.whole();
    let stranger = SigningKey::from_seed([9; 32]);
    let fault = check(&file, &[stranger.public()], Vec::new()).fault.unwrap();
    assert!(matches!(fault.wrong, Wrong::Unsigned { .. }));
    let mut anchor = made.anchor(150);
    anchor.checkpoint.link = [3; 32];
    let fault = check(&file, &[made.keys[0].public()], vec![anchor]).fault.unwrap();
    assert_eq!((fault.seq, fault.wrong), (Seq(150), Wrong::AnchorDiffers { anchored: Seq(150) }));
    anchor.log_id = [8; 16];
    let fault = check(&file, &[made.keys[0].public()], vec![anchor]).fault.unwrap();
    assert!(matches!(fault.wrong, Wrong::AnchorForeign { .. }));
}

#[test]
fn a_redacted_record_verifies() {
    let made = make(100);
    let mut writer = ExportWriter::new(&made.head(1));
    let mut redacted = 0;
    for seq in 1..=100 {
        let entry = made.entry(seq);
        let digest = entry.payload.map(|payload| payload_digest(payload.salt, payload.bytes));
        let gone = digest.filter(|_| seq % 3 == 0);
        redacted += u64::from(gone.is_some());
        let payload = entry.payload.filter(|_| gone.is_none());
        writer.push(&Entry { payload, redacted: gone.as_ref(), ..entry }, Shown::Whole);
    }
    let link = writer.link();
    let file = writer.finish(Some(made.keys[1].checkpoint(&LOG, Seq(100), link)));
    let report = check(&file, &[made.keys[0].public()], Vec::new());
    assert_eq!((report.fault, report.redacted), (None, redacted));
}
