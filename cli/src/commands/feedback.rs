//! `mindos feedback`: what somebody made of a result, as an event.

use clap::{Args, ValueEnum};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::event::v1::PublishRequest;

use super::send::random_id;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos feedback d42.1 accepted
  mindos feedback d42.1 dismissed --source https://review.example.com/ann
  mindos feedback d42.1 reverted --actor ann

It is an event like any other, of type `dev.mindos.feedback.accepted`, `.dismissed` or `.reverted`, with the delivery in the attribute
`mindosdelivery`: programs publish the same over gRPC, HTTP or an SDK. Each source has one word about a delivery, the last one.
See what it adds up to with `mindos routes scorecard`.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verdict {
    /// It was taken over.
    Accepted,
    /// It was looked at and not used.
    Dismissed,
    /// It was used, and taken back later.
    Reverted,
}

#[derive(Debug, Args)]
pub(crate) struct FeedbackArgs {
    /// The delivery whose result it is about, such as d42.1.
    delivery: String,
    /// What was made of it.
    #[arg(value_enum)]
    verdict: Verdict,
    /// Whose word it is, a URI reference.
    #[arg(long, default_value = "mindos:cli")]
    source: String,
    /// Who said it.
    #[arg(long)]
    actor: Option<String>,
}

pub(crate) async fn run(args: FeedbackArgs, global: &Global) -> Result<(), Failure> {
    let FeedbackArgs { delivery, verdict, source, actor } = args;
    let word = match verdict {
        Verdict::Accepted => "accepted",
        Verdict::Dismissed => "dismissed",
        Verdict::Reverted => "reverted",
    };
    let attributes =
        [("mindosdelivery", Some(delivery.clone())), ("actor", actor), ("subject", Some(delivery.clone()))];
    let attribute = |text| CloudEventAttributeValue { attr: Some(Attr::CeString(text)) };
    let event = CloudEvent {
        id: random_id()?,
        source,
        spec_version: "1.0".to_owned(),
        r#type: format!("dev.mindos.feedback.{word}"),
        attributes: attributes
            .into_iter()
            .filter_map(|(name, text)| Some((name.to_owned(), attribute(text?))))
            .collect(),
        data: None,
    };
    let client = Client::connect(global).await?;
    let request = PublishRequest { event: Some(event), explain: false };
    let answer = client.events().publish(request).await.map_err(client.failed())?.into_inner();
    let Some(result) = answer.result else { return Err(Failure::world("the answer is empty")) };
    if global.output.is_json() {
        render::print_json(&render::json(&result));
    } else {
        render::print(&format!("{delivery} {word}: event {}", result.seq));
    }
    Ok(())
}
