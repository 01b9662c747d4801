//! Every story in `tests/scenarios` leads to what is recorded below its `----`. `UPDATE=1` records anew.

use std::path::PathBuf;

use mindos_sim::script;

#[test]
fn every_story_ends_as_recorded() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let update = std::env::var_os("UPDATE").is_some();
    let mut stories: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    stories.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    stories.sort();
    let mut wrong = Vec::new();
    for path in &stories {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let recorded = std::fs::read_to_string(path).unwrap();
        match script::run(&recorded) {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(ran) => {
                if let Some(broken) = &ran.broken {
                    wrong.push(format!("{name}: {broken}"));
                }
                if update {
                    std::fs::write(path, &ran.text).unwrap();
                } else if ran.text.trim_end() != recorded.trim_end() {
                    wrong.push(format!("{name}: came out otherwise:\n{}", difference(&recorded, &ran.text)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} stories:\n{}", wrong.len(), stories.len(), wrong.join("\n"));
    assert!(stories.len() >= 25, "only {} stories were found", stories.len());
}

#[test]
fn a_full_lane_keeps_no_other_out_of_the_room_there_is() {
    let mut story = String::from(
        "limits lane=1 queue=2\n\
         route w kinds=job types=worker strategy=broadcast\n\
         route rest types=worker strategy=round_robin\n\
         apply\n\
         hello s1 c1/i1 generals=g:worker:1\n\
         hello s2 c2/i1 generals=g:worker:1\n",
    );
    let mut events = 0;
    let mut publish = |story: &mut String, lane: &str| {
        events += 1;
        // The second cluster has room, so the event is accepted.
        let line = format!("publish src/{events} kind=job lane={lane}\nresult s2 e{events}.2 1.1 ok\n");
        story.push_str(&line);
        events
    };
    for _ in 0..100 {
        publish(&mut story, "full");
    }
    let waiting = publish(&mut story, "b");
    let hidden = publish(&mut story, "c");
    story.push_str(&format!("cancel e{waiting}.1\nquery deliveries status=parked\ncancel e{hidden}.1\n"));

    let ran = script::run(&story).unwrap();

    assert_eq!(ran.broken, None);
    let after = ran.text.rsplit_once(&format!("> cancel e{waiting}.1")).unwrap().1;
    assert_eq!(after.matches("DeliveryRedriven").count(), 1, "{after}");
    assert!(after.contains("98 deliveries"), "{after}");
}

#[test]
fn asked_routes_give_their_place_away_only_when_nothing_is_open_under_them() {
    let mut story = String::from("hello s1 c1/i1 generals=g:worker:1\n");
    let mut publish = |name: &str, strategy: &str, events: std::ops::Range<usize>| {
        for number in events {
            // Nobody is of that type: broadcast leads to nothing, and round robin waits.
            let line = format!("publish {name}/{number} kind=job asked=asked.{name}{number}:{strategy}:nobody\n");
            story.push_str(&line);
        }
    };
    publish("idle", "broadcast", 0..64);
    publish("more", "broadcast", 0..1);
    publish("open", "round_robin", 0..65);
    story.push_str("crash\nrestart\n");

    let ran = script::run(&story).unwrap();

    assert_eq!(ran.broken, None);
    assert!(ran.text.contains("RouteAsked asked.more0 broadcast replaces=asked.idle0\n"), "{}", ran.text);
    assert_eq!(ran.text.matches(" replaces=").count(), 65, "{}", ran.text);
    let last = ran.text.rsplit_once("> publish open/64").unwrap().1;
    assert!(last.contains("refused: 64 routes that publishers asked for have open work, no more may"), "{last}");
}

/// Publishes to one lane under `debounce` 2 s / 30 s, so many at even times over so many seconds; says when which event began.
fn storm(pushes: u64, seconds: u64) -> Vec<String> {
    let mut story = String::from(
        "route w kinds=push types=worker strategy=broadcast debounce=2s/30s\n\
         route rest types=worker strategy=round_robin\n\
         apply\n\
         hello s1 c1/i1 generals=g:worker:8\n",
    );
    let gap = seconds * 1000 / pushes;
    for number in 1..=pushes {
        story.push_str(&format!("publish src/{number} kind=push lane=pr\nadvance {gap}ms\n"));
        // What has begun is done before the next one.
        if number % 50 == 0 {
            story.push_str(&format!("result s1 e{number}.1 1.1 ok\nheartbeat s1\n"));
        }
    }
    // The last push came one gap ago.
    let left = 2000 - gap - 1;
    story.push_str(&format!("advance {left}ms\nquery totals\nadvance 1ms\nquery totals\nadvance 8s\n"));

    let ran = script::run(&story).unwrap();

    assert_eq!(ran.broken, None);
    let came = ran.text.split_once("\n----\n").unwrap().1;
    assert_eq!(came.matches(" EventAccepted ").count() as u64, pushes, "every push is in the ledger");
    let at_last: Vec<_> = came.lines().filter(|line| line.starts_with("events=1 ")).collect();
    assert!(at_last[0].contains("waiting=1 leased=0") && at_last[1].contains("waiting=0 leased=1"), "{at_last:?}");
    let starts = came.lines().filter(|line| line.contains(" DeliveryLeased "));
    let starts: Vec<_> = starts.map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
    let linked = came.matches(" superseded_by=").count();
    assert_eq!((linked + starts.len()) as u64, pushes, "and linked to the one that took its place");
    starts
}

#[test]
fn a_storm_of_a_thousand_pushes_in_ten_seconds_is_one_start() {
    let starts = storm(1000, 10);

    assert_eq!(starts.len(), 1, "{starts:?}");
}

#[test]
fn a_storm_kept_up_for_65_seconds_is_three_starts() {
    let starts = storm(650, 65);

    assert_eq!(starts.len(), 3, "{starts:?}");
}

fn difference(recorded: &str, came: &str) -> String {
    let pairs = recorded.lines().zip(came.lines()).enumerate();
    let first = pairs.into_iter().find(|(_, (recorded, came))| recorded != came);
    match first {
        Some((line, (recorded, came))) => format!("  line {}: `{recorded}`\n  came:    `{came}`", line + 1),
        None => format!("  {} lines, {} came", recorded.lines().count(), came.lines().count()),
    }
}
