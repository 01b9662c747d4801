use mindos_model::{ParkReason, Status, Strategy};

use super::*;
use crate::route;

#[test]
fn tokens_survive_the_way_there_and_back() {
    let token = Token::new(3, 7);
    assert_eq!(Token::try_from(delivery::v1::Token::from(token)), Ok(token));
    assert_eq!(Token::try_from(journal::v1::Token::from(token)), Ok(token));
}

#[test]
fn a_token_of_zeros_is_refused() {
    for (epoch, term) in [(0, 0), (1, 0), (0, 1)] {
        assert!(Token::try_from(delivery::v1::Token { epoch, term }).is_err());
    }
}

#[test]
fn a_lease_needs_both_its_parts() {
    let token = Some(delivery::v1::Token { epoch: 1, term: 3 });
    assert_eq!(lease("d42.1", token), Ok((DeliveryId::new(Seq(42), 1), Token::new(1, 3))));
    assert_eq!(lease("d42.1", None).unwrap_err().field, "token");
    assert_eq!(lease("42.1", token).unwrap_err().field, "delivery_id");
}

#[test]
fn deliveries_survive_the_way_there_and_back() {
    let id = DeliveryId::new(Seq(u64::MAX), u32::MAX);
    assert_eq!(DeliveryId::try_from(journal::v1::DeliveryRef::from(id)), Ok(id));
    assert!(DeliveryId::try_from(journal::v1::DeliveryRef { event: 1, ordinal: 0 }).is_err());
}

#[test]
fn names_survive_the_way_there_and_back() {
    let name = (ClusterName::new("prod-us").unwrap(), GeneralName::new("triage-general").unwrap());
    let message = fleet::v1::GeneralName::from((&name.0, &name.1));
    assert_eq!((&message).try_into(), Ok(name));
    let error = <(ClusterName, GeneralName)>::try_from(&fleet::v1::GeneralName::default()).unwrap_err();
    assert_eq!(error.within("general").field, "general.cluster");
}

#[test]
fn times_keep_their_milliseconds() {
    for at in [Timestamp(0), Timestamp(1), Timestamp(1_795_176_000_999), Timestamp::MAX] {
        assert_eq!(timestamp(&time(at), "at"), Ok(at));
    }
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (253_402_300_800, 0), (i64::MAX, 0)] {
        assert!(timestamp(&prost_types::Timestamp { seconds, nanos }, "at").is_err(), "{seconds} s {nanos} ns");
    }
}

#[test]
fn spans_keep_their_milliseconds() {
    for span_ms in [0, 1, 25_000, 86_400_123] {
        let given = Duration::from_millis(span_ms);
        assert_eq!(duration(&span(given), "lease"), Ok(given));
    }
    assert!(duration(&prost_types::Duration { seconds: -1, nanos: 0 }, "lease").is_err());
    assert_eq!(span(Duration::MAX).seconds, i64::MAX);
}

#[test]
fn every_word_has_its_enum_value() {
    for &status in Status::ALL {
        let number = delivery::v1::DeliveryStatus::from(status).into();
        assert_eq!(word::<delivery::v1::DeliveryStatus, Status>(number, "status"), Ok(Some(status)));
    }
    for &reason in ParkReason::ALL {
        let number = delivery::v1::ParkReason::from(reason).into();
        assert_eq!(word::<delivery::v1::ParkReason, ParkReason>(number, "park_reason"), Ok(Some(reason)));
    }
    for &strategy in Strategy::ALL {
        let number = route::v1::Strategy::from(strategy).into();
        assert_eq!(word::<route::v1::Strategy, Strategy>(number, "strategy"), Ok(Some(strategy)));
    }
    assert_eq!(word::<delivery::v1::ParkReason, ParkReason>(0, "park_reason"), Ok(None));
    assert!(word::<delivery::v1::ParkReason, ParkReason>(99, "park_reason").is_err());
}

#[test]
fn a_rate_limit_waits_a_minute_unless_told_and_never_more_than_a_week() {
    let now = Timestamp(1_000_000);
    let limited = |retry_at| delivery::v1::Failure {
        kind: delivery::v1::FailureKind::RateLimited.into(),
        retry_at,
        ..Default::default()
    };
    let until = |failure| match failure_kind(&failure, now).unwrap() {
        FailureKind::RateLimited { until } => until,
        other => panic!("{other}"),
    };
    assert_eq!(until(limited(None)), now + RATE_LIMIT_WAIT);
    assert_eq!(until(limited(Some(time(Timestamp(1_000_500))))), Timestamp(1_000_500));
    assert_eq!(until(limited(Some(time(Timestamp::MAX)))), now + RATE_LIMIT_WAIT_MAX);
}

#[test]
fn a_failure_of_an_unknown_kind_is_transient() {
    let failure = delivery::v1::Failure { kind: 77, ..Default::default() };
    assert_eq!(failure_kind(&failure, Timestamp(0)), Ok(FailureKind::Transient));
}

#[test]
fn an_invalid_field_is_a_bad_request_that_names_it() {
    let status = rpc::Status::from(delivery_id("x").unwrap_err());
    assert_eq!(status.code, INVALID_ARGUMENT);
    let detail: rpc::BadRequest = status.detail().unwrap();
    assert_eq!(detail.field_violations[0].field, "delivery_id");
}
