//! How the view looks.

use mindos_proto::delivery::v1::{Delivery, DeliveryStatus};
use mindos_proto::fleet::v1::{General, Instance, Liveness};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table};

use super::feed::{EVENTS, Look, SETTLED};
use super::picture::{Pane, Screen, lanes, number};
use crate::commands::deliveries::{general_text, park_text, status_word};
use crate::commands::filter::{ago, now, short_span};
use crate::commands::fleet::{holds_text, liveness_word};
use crate::render::clip;

const GOOD: Color = Color::Green;
const BUSY: Color = Color::Yellow;
const BAD: Color = Color::Red;
const DIM: Color = Color::DarkGray;
const ACCENT: Color = Color::Cyan;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [head, curves, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, screen);
    draw_curves(frame, curves, screen);
    draw_tabs(frame, tabs, screen);
    match &screen.look {
        None => {
            let text = screen.failure.as_deref().unwrap_or("waiting for the control plane");
            frame.render_widget(Paragraph::new(text.to_owned()).fg(BUSY), body);
        }
        Some(look) => draw_body(frame, body, screen, look),
    }
    draw_foot(frame, foot, screen);
    if screen.help {
        draw_help(frame);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let mut spans = vec![" mindos ".bold().fg(Color::Black).bg(ACCENT), Span::raw(format!(" {}  ", screen.server))];
    if let Some(look) = &screen.look {
        let connected = count(&look.instances, Liveness::Connected);
        let unknown = count(&look.instances, Liveness::Unknown);
        let waiting: u64 = look.generals.iter().map(|general| general.waiting).sum();
        let in_use: u32 = look.generals.iter().map(|general| general.slots_in_use).sum();
        let slots: u32 = look.generals.iter().map(|general| general.slots).sum();
        let parked = look.parked.len();
        spans.push(Span::raw(format!("{} clusters  {} generals  ", look.clusters.len(), look.generals.len())));
        spans.push(Span::raw(format!("{connected} sessions  ")).fg(GOOD));
        if unknown > 0 {
            spans.push(Span::raw(format!("{unknown} unknown  ")).fg(BUSY));
        }
        spans.push(Span::raw(format!("slots {in_use}/{slots}  waiting {waiting}  ")));
        let more = if parked == 100 { "+" } else { "" };
        spans.push(Span::raw(format!("parked {parked}{more}  ")).fg(if parked > 0 { BAD } else { DIM }));
        let lag = number(&look.metrics, "mindos_history_lag_records");
        let seq = number(&look.metrics, "mindos_journal_durable_seq");
        spans.push(Span::raw(format!("record {seq}  ")).fg(DIM));
        spans.push(Span::raw(format!("history lag {}", short_number(lag))).fg(if lag > 0.0 { BUSY } else { DIM }));
    }
    if screen.paused {
        spans.push(Span::raw("  PAUSED ").fg(Color::Black).bg(BUSY));
    }
    if let Some(failure) = screen.failure.as_ref().filter(|_| screen.look.is_some()) {
        spans.push(Span::raw(format!("  {}", clip(failure, 60))).fg(BAD));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let [left, right] = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(area);
    for (area, name, counter, rates, color) in [
        (left, "events/s", EVENTS, &screen.events_per_second, ACCENT),
        (right, "settled/s", SETTLED, &screen.settled_per_second, GOOD),
    ] {
        let now = rates.back().copied().unwrap_or(0.0);
        let peak = rates.iter().copied().fold(0.0, f64::max);
        let total = screen.look.as_ref().map(|look| number(&look.metrics, counter));
        let title = Line::from(vec![
            Span::raw(format!(" {name} ")).fg(color).bold(),
            Span::raw(short_number(now)).bold(),
            Span::raw(format!("  peak {}  total {} ", short_number(peak), short_number(total.unwrap_or(0.0)))).fg(DIM),
        ]);
        let block = Block::bordered().border_style(Style::new().fg(DIM)).title(title);
        let width = usize::from(area.width.saturating_sub(2));
        let shown: Vec<u64> = rates.iter().rev().take(width).rev().map(|rate| (rate * 10.0) as u64).collect();
        let pad = width.saturating_sub(shown.len());
        let data: Vec<u64> = std::iter::repeat_n(0, pad).chain(shown).collect();
        frame.render_widget(Sparkline::default().block(block).data(&data).style(Style::new().fg(color)), area);
    }
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let mut spans = vec![Span::raw(" ")];
    for (at, pane) in Pane::ALL.iter().enumerate() {
        let text = format!(" {} {} ", at + 1, pane.title());
        let style = match *pane == screen.pane {
            true => Style::new().fg(Color::Black).bg(Color::Gray).add_modifier(Modifier::BOLD),
            false => Style::new().fg(Color::Gray),
        };
        spans.push(Span::styled(text, style));
        spans.push(Span::raw(" "));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let keys = " q quit  tab pane  ↑↓ scroll  p pause  ? keys";
    let mut spans = vec![Span::raw(keys).fg(DIM)];
    if let Some(notice) = &screen.notice {
        spans.push(Span::raw(format!("   {notice}")).fg(BUSY));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_body(frame: &mut Frame<'_>, area: Rect, screen: &Screen, look: &Look) {
    let offset = screen.offset;
    match screen.pane {
        Pane::Overview => {
            let wide = area.width >= 110;
            let areas = if wide {
                let [left, right] =
                    Layout::horizontal([Constraint::Percentage(55), Constraint::Percentage(45)]).areas(area);
                let [recent, lanes, parked] = Layout::vertical([
                    Constraint::Percentage(50),
                    Constraint::Percentage(25),
                    Constraint::Percentage(25),
                ])
                .areas(right);
                [left, recent, lanes, parked]
            } else {
                Layout::vertical([
                    Constraint::Percentage(50),
                    Constraint::Percentage(25),
                    Constraint::Percentage(12),
                    Constraint::Percentage(13),
                ])
                .areas(area)
            };
            draw_generals(frame, areas[0], &look.generals, offset);
            draw_deliveries(frame, areas[1], &look.recent, 0, "recent deliveries");
            draw_lanes(frame, areas[2], &look.waiting, 0);
            draw_parked(frame, areas[3], &look.parked, 0);
        }
        Pane::Generals => draw_generals(frame, area, &look.generals, offset),
        Pane::Deliveries => draw_deliveries(frame, area, &look.recent, offset, "recent deliveries"),
        Pane::Parked => draw_parked(frame, area, &look.parked, offset),
        Pane::Lanes => draw_lanes(frame, area, &look.waiting, offset),
        Pane::Instances => draw_instances(frame, area, &look.instances, offset),
    }
}

fn block(title: String) -> Block<'static> {
    Block::bordered().border_style(Style::new().fg(DIM)).title(Span::raw(format!(" {title} ")).fg(Color::Gray).bold())
}

fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    title: String,
    heading: &[&'static str],
    widths: Vec<Constraint>,
    rows: Vec<Row<'static>>,
    offset: usize,
) {
    let heading = Row::new(heading.iter().copied()).style(Style::new().fg(DIM).add_modifier(Modifier::BOLD));
    let rows = rows.into_iter().skip(offset);
    frame.render_widget(Table::new(rows, widths).header(heading).block(block(title)), area);
}

fn draw_generals(frame: &mut Frame<'_>, area: Rect, generals: &[General], offset: usize) {
    let rows = generals.iter().map(|general| {
        let liveness = general.liveness();
        let name = format!("{}/{}", general.cluster, general.name);
        let color = live_color(liveness);
        Row::new(vec![
            Cell::from(Line::from(vec![Span::raw("● ").fg(color), Span::raw(name)])),
            Cell::from(bar(general.slots_in_use, general.slots)),
            Cell::from(Line::from(general.waiting.to_string()).right_aligned())
                .style(Style::new().fg(if general.waiting > 0 { BUSY } else { DIM })),
            Cell::from(Line::from(general.parked.to_string()).right_aligned())
                .style(Style::new().fg(if general.parked > 0 { BAD } else { DIM })),
            Cell::from(Line::from(general.instances_connected.to_string()).right_aligned()),
            Cell::from(holds_text(&general.holds)).style(Style::new().fg(BUSY)),
        ])
    });
    table(
        frame,
        area,
        format!("generals ({})", generals.len()),
        &["general", "slots in use", "waiting", "parked", "inst", "hold"],
        vec![
            Constraint::Min(26),
            Constraint::Length(18),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(4),
            Constraint::Length(8),
        ],
        rows.collect(),
        offset,
    );
}

fn draw_deliveries(frame: &mut Frame<'_>, area: Rect, deliveries: &[Delivery], offset: usize, title: &str) {
    let rows = deliveries.iter().map(|delivery| {
        let event = delivery.event.clone().unwrap_or_default();
        Row::new(vec![
            Cell::from(delivery.delivery_id.clone()),
            Cell::from(status_word(delivery)).style(Style::new().fg(status_color(delivery.status()))),
            Cell::from(general_text(delivery)),
            Cell::from(clip(&event.kind, 30)),
            Cell::from(Line::from(ago(delivery.accepted_at.as_ref())).right_aligned()).style(Style::new().fg(DIM)),
            Cell::from(clip(&delivery.lane, 60)).style(Style::new().fg(DIM)),
        ])
    });
    table(
        frame,
        area,
        title.to_owned(),
        &["delivery", "status", "general", "kind", "age", "lane"],
        vec![
            Constraint::Length(10),
            Constraint::Length(9),
            Constraint::Min(20),
            Constraint::Length(18),
            Constraint::Length(7),
            Constraint::Min(10),
        ],
        rows.collect(),
        offset,
    );
}

fn draw_parked(frame: &mut Frame<'_>, area: Rect, parked: &[Delivery], offset: usize) {
    let rows = parked.iter().map(|delivery| {
        Row::new(vec![
            Cell::from(delivery.delivery_id.clone()),
            Cell::from(park_text(delivery)).style(Style::new().fg(BAD)),
            Cell::from(general_text(delivery)),
            Cell::from(Line::from(ago(delivery.parked_at.as_ref())).right_aligned()).style(Style::new().fg(DIM)),
        ])
    });
    let rows: Vec<Row<'static>> = rows.collect();
    if rows.is_empty() {
        frame.render_widget(Paragraph::new(" nothing is parked").fg(DIM).block(block("parked".to_owned())), area);
        return;
    }
    table(
        frame,
        area,
        format!("parked ({})", parked.len()),
        &["delivery", "why", "general", "for"],
        vec![Constraint::Length(10), Constraint::Min(24), Constraint::Min(20), Constraint::Length(7)],
        rows,
        offset,
    );
}

fn draw_lanes(frame: &mut Frame<'_>, area: Rect, open: &[Delivery], offset: usize) {
    let lanes = lanes(open);
    if lanes.is_empty() {
        frame.render_widget(Paragraph::new(" no work is open").fg(DIM).block(block("lanes".to_owned())), area);
        return;
    }
    let title = format!("lanes with open work ({}{})", lanes.len(), if open.len() >= 1000 { "+" } else { "" });
    let rows = lanes.iter().map(|lane| {
        let age = now().since(mindos_model::Timestamp(lane.oldest));
        Row::new(vec![
            Cell::from(clip(&lane.name, 80)),
            Cell::from(Line::from(lane.leased.to_string()).right_aligned()).style(Style::new().fg(ACCENT)),
            Cell::from(Line::from(lane.waiting.to_string()).right_aligned()).style(Style::new().fg(BUSY)),
            Cell::from(Line::from(lane.generals.to_string()).right_aligned()),
            Cell::from(Line::from(short_span(age)).right_aligned()).style(Style::new().fg(DIM)),
        ])
    });
    table(
        frame,
        area,
        title,
        &["lane", "leased", "waiting", "generals", "oldest"],
        vec![
            Constraint::Min(20),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(7),
        ],
        rows.collect(),
        offset,
    );
}

fn draw_instances(frame: &mut Frame<'_>, area: Rect, instances: &[Instance], offset: usize) {
    let rows = instances.iter().map(|instance| {
        let names: Vec<&str> = instance.generals.iter().map(|general| general.name.as_str()).collect();
        let leases: u32 = instance.generals.iter().map(|general| general.leases).sum();
        let capacity: u32 = instance.generals.iter().map(|general| general.capacity).sum();
        let broken = instance.generals.iter().any(|general| general.breaker_open);
        let latency = instance.generals.iter().filter_map(|general| general.latency.as_ref()).map(millis).max();
        Row::new(vec![
            Cell::from(Line::from(vec![
                Span::raw("● ").fg(live_color(instance.liveness())),
                Span::raw(format!("{}/{}", instance.cluster, instance.instance_id)),
            ])),
            Cell::from(liveness_word(instance.liveness)),
            Cell::from(bar(leases, capacity)),
            Cell::from(clip(&names.join(","), 40)),
            Cell::from(Line::from(latency.map_or_else(String::new, |ms| format!("{ms} ms"))).right_aligned()),
            Cell::from(Line::from(ago(instance.heard_at.as_ref())).right_aligned()),
            Cell::from(instance.session.clone()).style(Style::new().fg(DIM)),
            Cell::from(if broken { "breaker open" } else { "" }).style(Style::new().fg(BAD)),
        ])
    });
    table(
        frame,
        area,
        format!("instances ({})", instances.len()),
        &["instance", "state", "leases", "generals", "latency", "heard", "session", ""],
        vec![
            Constraint::Min(28),
            Constraint::Length(10),
            Constraint::Length(18),
            Constraint::Min(20),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(10),
            Constraint::Length(12),
        ],
        rows.collect(),
        offset,
    );
}

fn draw_help(frame: &mut Frame<'_>) {
    let keys = [
        ("q, Esc, Ctrl-C", "quit"),
        ("tab, shift-tab", "next, previous pane"),
        ("1 to 6", "a pane"),
        ("up, down, j, k", "scroll"),
        ("PgUp, PgDn", "scroll by twenty"),
        ("p, space", "pause the view; work goes on"),
        ("?, h", "these keys"),
    ];
    let lines: Vec<Line<'_>> = keys.iter().map(|(key, what)| Line::from(format!(" {key:<16} {what}"))).collect();
    let area = frame.area();
    let (width, height) = (50.min(area.width), 9.min(area.height));
    let area = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block("keys".to_owned())), area);
}

/// Slots in use as a bar of ten, and as numbers.
fn bar(in_use: u32, slots: u32) -> Line<'static> {
    const WIDTH: u32 = 10;
    let full = if slots == 0 { 0 } else { (in_use.min(slots) * WIDTH).div_ceil(slots) };
    let color = match (in_use, slots) {
        (_, 0) => DIM,
        (in_use, slots) if in_use >= slots => BAD,
        (in_use, slots) if in_use * 2 > slots => BUSY,
        _ => GOOD,
    };
    Line::from(vec![
        Span::raw("█".repeat(full as usize)).fg(color),
        Span::raw("░".repeat((WIDTH - full) as usize)).fg(DIM),
        Span::raw(format!(" {in_use}/{slots}")),
    ])
}

fn live_color(liveness: Liveness) -> Color {
    match liveness {
        Liveness::Connected => GOOD,
        Liveness::Unknown | Liveness::Draining => BUSY,
        Liveness::Gone => BAD,
        Liveness::Unspecified => DIM,
    }
}

fn status_color(status: DeliveryStatus) -> Color {
    match status {
        DeliveryStatus::Succeeded => GOOD,
        DeliveryStatus::Leased => ACCENT,
        DeliveryStatus::Waiting => BUSY,
        DeliveryStatus::Parked => BAD,
        DeliveryStatus::Cancelled | DeliveryStatus::Unspecified => DIM,
    }
}

fn count(instances: &[Instance], liveness: Liveness) -> usize {
    instances.iter().filter(|instance| instance.liveness() == liveness).count()
}

fn millis(span: &prost_types::Duration) -> i64 {
    span.seconds.saturating_mul(1000).saturating_add(i64::from(span.nanos) / 1_000_000)
}

/// A number in at most five characters.
fn short_number(number: f64) -> String {
    match number {
        number if number >= 10_000_000.0 => format!("{:.0}M", number / 1e6),
        number if number >= 1_000_000.0 => format!("{:.1}M", number / 1e6),
        number if number >= 10_000.0 => format!("{:.0}k", number / 1e3),
        number if number >= 1_000.0 => format!("{:.1}k", number / 1e3),
        number if number >= 10.0 || number == 0.0 => format!("{number:.0}"),
        number => format!("{number:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        for (number, text) in
            [(0.0, "0"), (2.5, "2.5"), (999.0, "999"), (1500.0, "1.5k"), (42_000.0, "42k"), (3.2e6, "3.2M")]
        {
            assert_eq!(short_number(number), text);
        }
    }

    #[test]
    fn a_bar_is_ten_wide() {
        for (in_use, slots) in [(0, 0), (0, 4), (1, 4), (4, 4), (9, 4)] {
            let text: String = bar(in_use, slots).spans.iter().take(2).map(|span| span.content.to_string()).collect();
            assert_eq!(text.chars().count(), 10, "{in_use}/{slots}");
        }
    }
}
