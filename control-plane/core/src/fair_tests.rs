use std::collections::BTreeMap;

use super::*;
use crate::input::Entropy;

fn turns() -> Turns {
    Turns::new(FixedState::default())
}

fn add(turns: &mut Turns, lane: u32, flow: &str, priority: Priority) {
    let flow = turns.join(&flow.into());
    turns.push(LaneIdx(lane), flow, priority);
}

fn give(turns: &mut Turns) -> LaneIdx {
    let lane = turns.front().unwrap();
    turns.gave(false, 1);
    turns.check().unwrap();
    lane
}

#[test]
fn classes_share_as_sixteen_to_four_to_one() {
    let mut turns = turns();
    for lane in 0..1000 {
        add(&mut turns, lane, "high", Priority::High);
        add(&mut turns, 1000 + lane, "normal", Priority::Normal);
        add(&mut turns, 2000 + lane, "low", Priority::Low);
    }
    let mut counts = [0; 3];
    for _ in 0..21 * 40 {
        counts[give(&mut turns).0 as usize / 1000] += 1;
    }
    assert_eq!(counts, [16 * 40, 4 * 40, 40]);
}

#[test]
fn the_one_delivery_of_a_quiet_repository_goes_first_or_second() {
    for given in [0, 1, 7] {
        let mut turns = turns();
        (0..100_000).for_each(|lane| add(&mut turns, lane, "noisy/repository", Priority::Normal));
        for _ in 0..given {
            turns.gave(false, 1);
        }
        add(&mut turns, 200_000, "quiet/repository", Priority::Normal);
        let first_two = [turns.front().unwrap(), {
            turns.gave(false, 1);
            turns.front().unwrap()
        }];
        assert!(first_two.contains(&LaneIdx(200_000)), "{first_two:?} after {given}");
    }
}

#[test]
fn what_was_found_without_a_slot_is_not_kept_for_the_next_one() {
    let mut turns = turns();
    add(&mut turns, 1, "a", Priority::Low);
    assert_eq!(turns.front(), Some(LaneIdx(1)));
    turns.put_back();
    add(&mut turns, 2, "a", Priority::High);
    assert_eq!(turns.front(), Some(LaneIdx(2)));
}

#[test]
fn a_class_that_comes_back_has_saved_up_nothing() {
    let mut turns = turns();
    add(&mut turns, 0, "a", Priority::High);
    give(&mut turns);
    (1..=400).for_each(|lane| add(&mut turns, lane, "a", Priority::Low));
    (0..100).for_each(|_| _ = give(&mut turns));
    (1001..=1400).for_each(|lane| add(&mut turns, lane, "a", Priority::High));
    let next: Vec<_> = (0..36).map(|_| give(&mut turns).0).collect();
    assert_eq!(next.iter().filter(|lane| **lane <= 400).count(), 2, "{next:?}");
}

#[test]
fn lanes_set_aside_hold_up_no_class_and_no_flow() {
    let mut turns = turns();
    (0..1000).for_each(|lane| add(&mut turns, lane, "stuck", Priority::High));
    add(&mut turns, 5000, "free", Priority::High);
    add(&mut turns, 6000, "free", Priority::Low);
    let mut asked = Vec::new();
    for _ in 0..=2 * TRIES {
        asked.push(turns.front().unwrap().0);
        turns.set_aside();
    }
    assert!(asked.contains(&5000) && asked.contains(&6000), "{asked:?}");
    assert_eq!(turns.len(), 1002);
    turns.put_back();
    turns.check().unwrap();
    assert_eq!(turns.iter().count(), 1002);
    assert!(!asked.contains(&turns.front().unwrap().0), "those that were asked wait behind the others");
}

#[test]
fn a_flow_is_forgotten_once_another_one_has_no_lane_either() {
    let mut turns = turns();
    for number in 0..10_000 {
        let flow = turns.join(&format!("o/{number}").into());
        turns.leave(flow);
        turns.check().unwrap();
    }
    assert!(turns.flows.len() <= 2 && turns.by_name.len() == 1);
}

/// Every order of coming, giving, setting aside and clearing away that chance makes: `check` says whether somebody starves.
#[test]
fn nobody_starves_whatever_comes() {
    let mut entropy = Entropy(0x5eed);
    for _ in 0..200 {
        let mut turns = turns();
        let mut flow_of: BTreeMap<u32, FlowIdx> = BTreeMap::new();
        let (mut next, mut given) = (0, 0);
        for _ in 0..400 {
            match entropy.below(10) {
                0..=4 => {
                    let flow = turns.join(&format!("o/{}", entropy.below(1 + entropy.0 % 9)).into());
                    let priority = [Priority::High, Priority::High, Priority::Normal, Priority::Low];
                    turns.push(LaneIdx(next), flow, priority[entropy.below(4) as usize]);
                    flow_of.insert(next, flow);
                    next += 1;
                }
                5..=7 => {
                    let Some(lane) = turns.front() else { continue };
                    let has_more = entropy.below(3) == 0;
                    turns.gave(has_more, 1);
                    given += 1;
                    if !has_more {
                        turns.leave(flow_of.remove(&lane.0).unwrap());
                    }
                }
                8 => {
                    turns.set_aside();
                    if entropy.below(3) == 0 {
                        turns.put_back();
                        given = 0;
                    }
                }
                _ => {
                    let odd = entropy.below(8) as u32;
                    for lane in turns.tidy(|lane| lane.0 % 8 == odd) {
                        turns.leave(flow_of.remove(&lane.0).unwrap());
                    }
                }
            }
            if given == QUEUE_TURN {
                turns.put_back();
                given = 0;
            }
            turns.check().unwrap();
            assert_eq!(turns.len(), flow_of.len());
        }
        turns.put_back();
        while let Some(lane) = turns.front() {
            turns.gave(false, 1);
            turns.leave(flow_of.remove(&lane.0).unwrap());
            turns.check().unwrap();
        }
        assert!(flow_of.is_empty());
    }
}

#[test]
fn flows_give_out_in_the_proportion_of_their_weights() {
    let mut turns = turns();
    for lane in 0..1000 {
        add(&mut turns, lane, "o/a", Priority::Normal);
        add(&mut turns, 1000 + lane, "o/b", Priority::Normal);
    }
    let mut counts = [0; 2];
    for _ in 0..400 {
        let of = turns.front().unwrap().0 as usize / 1000;
        counts[of] += 1;
        turns.gave(false, [3, 1][of]);
        turns.check().unwrap();
    }
    assert_eq!(counts, [300, 100]);
}
