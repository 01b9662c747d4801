use mindos_core::record::{DeliveryParked, DeliveryRedriven};
use mindos_model::{ClusterName, GeneralName, ParkReason, TenantName, Token};

use super::super::follow::{Source, View};
use super::super::testing::{Records, general};
use super::*;

const SMALL: HistorySettings = HistorySettings {
    rows_max: 40,
    batch_rows: 7,
    batch_age: Duration::from_secs(5),
    keep_age: Duration::from_secs(3600),
    keep_bytes: u64::MAX,
};

fn page(limit: usize) -> PageRequest {
    PageRequest { tenant: TenantName::default_tenant(), limit }
}

fn feed(writer: &mut HistoryWriter, records: &Records) {
    let next = writer.next();
    for entry in records.entries().iter().filter(|entry| entry.seq >= next) {
        writer.apply(entry).unwrap();
    }
}

/// `count` events of three repositories, each with two deliveries that succeed.
fn busy(records: &Records, count: usize) {
    let (first, second) = (general("eu", "security"), general("us", "review"));
    for index in 0..count {
        let event =
            records.event(["o/a", "o/b", "o/c"][index % 3], ["push", "pr_created"][index % 2], &[&first, &second]);
        for (ordinal, general) in [(1, &first), (2, &second)] {
            let delivery = DeliveryId::new(event, ordinal);
            records.leased(delivery, general, 1);
            records.settled(delivery);
        }
    }
}

fn all(reader: &HistoryReader, query: &DeliveryQuery, limit: usize) -> Vec<DeliveryRow> {
    let mut query = query.clone();
    let mut rows = Vec::new();
    loop {
        let found = reader.deliveries(&query, &page(limit)).unwrap();
        rows.extend(found.rows);
        let Some(next) = found.next else { return rows };
        query.before = Some(next);
    }
}

#[test]
fn ids_at_the_end_of_all_numbers_are_looked_up_and_not_found() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    busy(&records, 20);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    let (reader, tenant) = (writer.reader(), mindos_model::TenantName::default_tenant());

    for event in [u64::MAX, u64::MAX - 1, u64::MAX / 2, i64::MAX as u64, u64::MAX / 8192] {
        for ordinal in [0, 1, u32::MAX] {
            assert_eq!(reader.delivery(&tenant, DeliveryId::new(Seq(event), ordinal)).unwrap(), None, "{event}");
        }
        assert_eq!(reader.event(&tenant, Seq(event)).unwrap(), None, "{event}");
    }
}

#[test]
fn pages_walk_all_files_newest_first_without_gaps_or_repeats() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    busy(&records, 200);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    assert!(writer.files.load().len() >= 5);

    let reader = writer.reader();
    for limit in [1, 7, 64, 1000] {
        let rows = all(&reader, &DeliveryQuery::default(), limit);
        assert_eq!(rows.len(), 400, "limit {limit}");
        assert!(rows.is_sorted_by(|newer, older| newer.delivery > older.delivery));
    }
    let events = reader.events(&EventQuery::default(), &page(1000)).unwrap();
    assert_eq!((events.rows.len(), events.next), (200, None));
}

#[test]
fn events_that_settle_at_once_are_one_row_and_add_up_with_the_others() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    busy(&records, 60);
    let mut writer = HistoryWriter::open(dir.path(), HistorySettings { rows_max: 1_000, ..SMALL }).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    let (reader, files) = (writer.reader(), writer.files.load_full());
    let count = |what: &str| -> i64 {
        let connection = rusqlite::Connection::open(&files[0].path).unwrap();
        connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
    };
    let (whole, rows) = (count("events WHERE settled IS NOT NULL"), count("deliveries"));
    // Each commit meets one event that has not settled yet.
    assert!(whole > 40 && rows > 0 && whole * 2 + rows == 120, "{whole} events whole, {rows} rows");

    let tenant = TenantName::default_tenant();
    let by = |by| reader.spending(&tenant, by, Timestamp(0), Timestamp(u64::MAX >> 1)).unwrap();
    let each = |deliveries| Spending {
        cost_micros: 7 * deliveries,
        input_tokens: 10 * deliveries,
        output_tokens: 3 * deliveries,
        time_ms: 4 * deliveries,
        deliveries,
    };
    let (found, cut) = by(SpendingBy::General);
    let expected = [("eu/security", 60), ("us/review", 60)].map(|(name, count)| (name.to_owned(), each(count)));
    assert_eq!((found, cut), (expected.into(), false));
    let expected = ["o/a", "o/b", "o/c"].map(|name| (name.to_owned(), each(40)));
    assert_eq!(by(SpendingBy::Repository).0, expected.into());
}

#[test]
fn each_filter_narrows_to_what_fits() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    busy(&records, 200);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    let reader = writer.reader();
    let whole = all(&reader, &DeliveryQuery::default(), 1000);
    let check = |query: DeliveryQuery, fits: &dyn Fn(&DeliveryRow) -> bool| {
        let expected: Vec<_> = whole.iter().filter(|row| fits(row)).cloned().collect();
        for limit in [3, 1000] {
            assert_eq!(all(&reader, &query, limit), expected, "{query:?}");
        }
        expected.len()
    };
    let base = DeliveryQuery::default;

    let query = DeliveryQuery { repository: Some("o/b".into()), ..base() };
    assert_eq!(check(query, &|row| row.repository.as_deref() == Some("o/b")), 134);
    assert_eq!(check(DeliveryQuery { kind: Some("push".into()), ..base() }, &|row| row.kind == "push"), 200);
    let eu = |row: &DeliveryRow| row.general.as_ref().is_some_and(|general| general.cluster == "eu");
    assert_eq!(check(DeliveryQuery { cluster: Some(ClusterName::new("eu").unwrap()), ..base() }, &eu), 200);
    let query = DeliveryQuery { general: Some(GeneralName::new("review").unwrap()), ..base() };
    assert_eq!(check(query, &|row| !eu(row)), 200);
    assert_eq!(check(DeliveryQuery { general: Some(GeneralName::new("none").unwrap()), ..base() }, &|_| false), 0);
    assert_eq!(check(DeliveryQuery { statuses: vec![Status::Parked], ..base() }, &|_| false), 0);
    assert_eq!(check(DeliveryQuery { statuses: vec![Status::Waiting], ..base() }, &|_| false), 0);
    let (since, until) = (Timestamp(1_300), Timestamp(1_700));
    let query = DeliveryQuery { since: Some(since), until: Some(until), ..base() };
    assert_eq!(check(query, &|row| row.accepted >= since && row.accepted < until), 160);
    let event = whole[9].delivery.event;
    assert_eq!(check(DeliveryQuery { events: vec![event], ..base() }, &|row| row.delivery.event == event), 2);
    let query = DeliveryQuery { lane: Some("o/a/pr/7".into()), instance: Some("i-1".into()), ..base() };
    assert_eq!(check(query, &|row| row.lane == "o/a/pr/7"), 134);

    let query = EventQuery { kind: Some("push".into()), since: Some(since), ..EventQuery::default() };
    let events = reader.events(&query, &page(1000)).unwrap().rows;
    assert!(events.iter().all(|event| event.kind == "push" && event.at >= since) && events.len() == 70);
    let other = PageRequest { tenant: TenantName::new("other").unwrap(), limit: 10 };
    assert_eq!(reader.deliveries(&base(), &other).unwrap().rows, []);
}

#[test]
fn a_row_has_what_its_records_said() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    let security = general("eu", "security");
    let event = records.event("o/a", "push", &[&security]);
    let delivery = DeliveryId::new(event, 1);
    records.leased(delivery, &security, 1);
    records.failed(delivery, true, Next::Wait { not_before: Timestamp(0) });
    let leased = records.leased(delivery, &security, 2);
    let settled = records.settled(delivery);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();

    let row = writer.reader().delivery(&TenantName::default_tenant(), delivery).unwrap().unwrap();
    assert_eq!((row.status, row.attempts, row.seq), (Status::Succeeded, 2, settled));
    assert_eq!((row.token, row.leased), (Some(Token::new(1, 2)), Some(Timestamp(1_000 + leased.0))));
    assert_eq!((row.accepted, row.ended, row.took_ms), (Timestamp(1_001), Timestamp(1_000 + settled.0), Some(4)));
    assert_eq!((row.input_tokens, row.output_tokens, row.cost_micros), (10, 3, 7));
    assert_eq!(
        (row.event_id.as_str(), row.lane.as_str(), row.route.as_deref()),
        ("event-1", "o/a/pr/7", Some("pr-created"))
    );
    assert_eq!(row.general, Some(GeneralRef { cluster: "eu".into(), name: "security".into() }));
    let event = writer.reader().event(&TenantName::default_tenant(), event).unwrap().unwrap();
    assert_eq!((event.actor.as_deref(), event.time, event.payload_len), (Some("octocat"), Some(Timestamp(500)), 2));
    assert_eq!(event.deliveries, [PlannedRow { general: row.general, parked: None }]);
}

#[test]
fn parked_and_redriven_deliveries_show_as_they_are() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    let security = general("eu", "security");
    let event = records.event("o/a", "push", &[&security, &security]);
    let [first, second] = [1, 2].map(|ordinal| DeliveryId::new(event, ordinal));
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    let reader = writer.reader();
    let show = |writer: &mut HistoryWriter, records: &Records| {
        feed(writer, records);
        writer.close().unwrap();
        let rows = all(&reader, &DeliveryQuery { statuses: vec![Status::Parked], ..DeliveryQuery::default() }, 10);
        rows.iter().map(|row| (row.delivery, row.reason, row.attempts, row.redrives)).collect::<Vec<_>>()
    };

    records.leased(first, &security, 3);
    records.failed(first, true, Next::Park { reason: ParkReason::AttemptsExhausted });
    records.push(Record::DeliveryParked(DeliveryParked { delivery: second, reason: ParkReason::Blocked, over: None }));
    let exhausted = (first, Some(ParkReason::AttemptsExhausted), 3, 0);
    assert_eq!(show(&mut writer, &records), [(second, Some(ParkReason::Blocked), 0, 0), exhausted]);
    let row = reader.delivery(&TenantName::default_tenant(), second).unwrap().unwrap();
    assert_eq!(row.general.map(|general| general.name), Some("security".to_owned()));

    let redriven = |delivery| {
        let (place_before, why, by) = (event, "".into(), "me".into());
        Record::DeliveryRedriven(DeliveryRedriven { delivery, place_before, why, by })
    };
    records.push(redriven(second));
    assert_eq!(show(&mut writer, &records), [exhausted]);
    assert_eq!(reader.delivery(&TenantName::default_tenant(), second).unwrap(), None);
    records.leased(second, &security, 1);
    records.failed(second, false, Next::Park { reason: ParkReason::Poison });
    assert_eq!(show(&mut writer, &records), [(second, Some(ParkReason::Poison), 0, 1), exhausted]);

    // Written a second time from the start, it is the same.
    writer.mark = Mark::default();
    assert_eq!(show(&mut writer, &records), [(second, Some(ParkReason::Poison), 0, 1), exhausted]);
}

#[test]
fn a_late_ending_goes_into_the_file_of_its_event() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    let security = general("eu", "security");
    let event = records.event("o/z", "push", &[&security]);
    busy(&records, 200);
    records.leased(DeliveryId::new(event, 1), &security, 1);
    records.settled(DeliveryId::new(event, 1));
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    let query = DeliveryQuery { repository: Some("o/z".into()), ..DeliveryQuery::default() };
    assert_eq!(all(&writer.reader(), &query, 10).len(), 1);
}

#[test]
fn a_crash_at_any_record_loses_no_row() {
    let records = Records::default();
    busy(&records, 60);
    let entries = records.entries();
    for stop in (1..entries.len()).step_by(23) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
        entries[..stop].iter().for_each(|entry| writer.apply(entry).unwrap());
        // Without a close: what was not committed is gone.
        drop(writer);
        let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
        assert!(writer.next() <= Seq(stop as u64 + 1));
        feed(&mut writer, &records);
        writer.close().unwrap();
        let rows = all(&writer.reader(), &DeliveryQuery::default(), 1000);
        assert_eq!(rows.len(), 120, "stopped at {stop}");
        assert!(rows.iter().all(|row| row.general.is_some() && row.attempts == 1 && row.instance.is_some()));
    }
}

#[test]
fn files_that_are_damaged_or_of_another_schema_are_rebuilt() {
    let records = Records::default();
    busy(&records, 100);
    let harms: [&dyn Fn(&Path); 3] = [
        &|path| {
            std::fs::write(path, b"not a database, but long enough to be taken for one by its length alone").unwrap()
        },
        &|path| {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'", []).unwrap();
        },
        &|path| std::fs::write(path, b"").unwrap(),
    ];
    for (index, harm) in harms.iter().enumerate() {
        for which in ["first", "last"] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
            feed(&mut writer, &records);
            writer.close().unwrap();
            let files = writer.files.load_full();
            drop(writer);
            let harmed = if which == "first" { files.first() } else { files.last() };
            harm(&harmed.unwrap().path);

            let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
            assert!(writer.next() < records.end(), "harm {index} to the {which}");
            feed(&mut writer, &records);
            writer.close().unwrap();
            assert_eq!(
                all(&writer.reader(), &DeliveryQuery::default(), 1000).len(),
                200,
                "harm {index} to the {which}"
            );
        }
    }
}

#[test]
fn a_file_that_cannot_be_opened_this_time_is_kept_and_the_history_comes_back() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    busy(&records, 100);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    let (files, mark) = (writer.files.load_full(), writer.next());
    assert!(files.len() > 1);
    // A folder in its place is no damaged database, but cannot be opened.
    let (path, aside) = (&files[0].path, dir.path().join("aside"));
    std::fs::rename(path, &aside).unwrap();
    std::fs::create_dir(path).unwrap();
    assert!(writer.recover().is_err());
    assert!(files[1..].iter().all(|file| file.path.exists()));

    std::fs::remove_dir(path).unwrap();
    std::fs::rename(&aside, path).unwrap();
    writer.recover().unwrap();
    assert_eq!(writer.next(), mark);
    assert_eq!(all(&writer.reader(), &DeliveryQuery::default(), 1000).len(), 200);
}

#[test]
fn pages_end_within_an_event_that_is_one_row() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    let security = general("eu", "security");
    let event = records.event("o/a", "push", &[&security; 5]);
    for ordinal in [4, 1, 5, 2, 3] {
        let delivery = DeliveryId::new(event, ordinal);
        records.leased(delivery, &security, 1);
        records.settled(delivery);
    }
    busy(&records, 10);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.close().unwrap();
    let reader = writer.reader();
    let whole = all(&reader, &DeliveryQuery::default(), 100);
    assert_eq!(whole.len(), 25);
    for limit in [1, 2, 3, 7] {
        assert_eq!(all(&reader, &DeliveryQuery::default(), limit), whole, "limit {limit}");
    }
    for row in &whole {
        assert_eq!(reader.delivery(&TenantName::default_tenant(), row.delivery).unwrap().as_ref(), Some(row));
    }
    assert_eq!(reader.delivery(&TenantName::default_tenant(), DeliveryId::new(event, 6)).unwrap(), None);
    let query = |statuses| DeliveryQuery { statuses, events: vec![event], ..DeliveryQuery::default() };
    assert_eq!(all(&reader, &query(vec![Status::Succeeded]), 2).len(), 5);
    assert_eq!(all(&reader, &query(vec![Status::Cancelled]), 2), []);
}

#[test]
fn the_oldest_files_leave_whole_when_there_are_too_many_bytes() {
    let (dir, records) = (tempfile::tempdir().unwrap(), Records::default());
    busy(&records, 200);
    let mut writer = HistoryWriter::open(dir.path(), SMALL).unwrap();
    feed(&mut writer, &records);
    writer.commit().unwrap();
    let size = |writer: &HistoryWriter| -> u64 {
        writer.files.load().iter().map(|file| std::fs::metadata(&file.path).unwrap().len()).sum()
    };
    writer.settings.keep_bytes = size(&writer) / 2;
    writer.expire().unwrap();
    assert!(size(&writer) <= writer.settings.keep_bytes);
    let files = writer.files.load_full();
    let rows = all(&writer.reader(), &DeliveryQuery::default(), 1000);
    assert!(!rows.is_empty() && rows.len() < 400);
    assert_eq!(rows.last().map(|row| row.delivery.event), Some(files[0].first));
}
