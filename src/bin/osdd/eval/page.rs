//! The figures as one HTML page that needs nothing else: tables, plots against gamma, pictures to compare.

use std::fmt::Write;

use serde_json::{Value, json};

use super::figures::{Figures, Group, Method, Row};
use super::gallery::{Exhibit, Gallery};
use super::metric::Column;
use super::plot::{self, Level, Series};
use super::table;
use crate::report::escape;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(super) fn render(figures: &Figures, gallery: &Gallery, per_image: bool) -> String {
    let mut body = heading(figures);
    for (index, group) in figures.groups.iter().enumerate() {
        body += &section(figures, group, index == 0);
    }
    if per_image {
        body += "<details class=\"group\"><summary><h2>Every image</h2></summary>\n";
        for (index, name) in figures.images.iter().enumerate() {
            let _ = writeln!(body, "<h3>{}</h3>", escape(name));
            body += &values_table(figures, &|row, column| row.values[index][column]);
        }
        body += "</details>\n";
    }
    if !gallery.exhibits.is_empty() {
        body += &pictures(figures, gallery);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>osdd eval</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

fn heading(figures: &Figures) -> String {
    let mut facts = vec![match figures.images.len() {
        1 => "1 image".to_owned(),
        count => format!("{count} images"),
    }];
    if let Some(setup) = &figures.setup {
        facts.push(format!("{}, {}", setup.device, setup.precision));
        facts.push(match setup.tile_size {
            0 => "whole images".to_owned(),
            side => format!("tiles of {side} px overlapping by {} px", setup.tile_overlap),
        });
    }
    facts.push(concat!("osdd ", env!("CARGO_PKG_VERSION")).to_owned());
    let models: Vec<String> = models(figures).into_iter().map(escape).collect();
    let title = match models.as_slice() {
        [] => "the input alone".to_owned(),
        names => names.join(", "),
    };
    let mut text = format!(
        "<header>\n<h1>Deblurring: {title}</h1>\n<p>{}</p>\n",
        escape(&facts.join(" · "))
    );
    if !figures.left_out.is_empty() {
        let _ = writeln!(text, "<p class=\"warning\">Left out:</p>\n<ul class=\"warning\">");
        for image in &figures.left_out {
            let _ = writeln!(
                text,
                "<li>{}: {}</li>",
                escape(&image.name),
                escape(&image.reason)
            );
        }
        text += "</ul>\n";
    }
    text + "</header>\n"
}

/// Table and plots of one group.
fn section(figures: &Figures, group: &Group, open: bool) -> String {
    let count = match group.members.len() {
        1 => "1 image".to_owned(),
        count => format!("means over {count} images"),
    };
    let mut text = format!(
        "<details class=\"group\"{}>\n<summary><h2>{}</h2> <span>{count}</span></summary>\n",
        if open { " open" } else { "" },
        escape(&group.name)
    );
    text += &values_table(figures, &|row, column| figures.mean(row, group, column).shown());
    text += "<p class=\"note\"><strong>Bold</strong>: best of its column. ↑ higher is better, ↓ lower is better.</p>\n";
    for note in table::shortfalls(figures, &group.members) {
        let _ = writeln!(text, "<p class=\"note\">{}</p>", escape(&note));
    }
    text += &plots(figures, group);
    text + "</details>\n"
}

fn values_table(figures: &Figures, value: &dyn Fn(&Row, usize) -> Option<f64>) -> String {
    let mut text =
        "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">method</th><th scope=\"col\">gamma</th>"
            .to_owned();
    let mut columns = Vec::new();
    for (index, column) in figures.columns.iter().enumerate() {
        let _ = write!(
            text,
            "<th scope=\"col\">{}<small>{} {}</small></th>",
            escape(&column.name),
            column.unit,
            column.arrow()
        );
        let values: Vec<Option<f64>> = figures.rows.iter().map(|row| value(row, index)).collect();
        let best = figures.best(column, &values);
        columns.push((column, values, best));
    }
    text += "</tr></thead>\n<tbody>\n";
    for (index, row) in figures.rows.iter().enumerate() {
        let (name, gamma) = match &row.method {
            Method::Model { model, gamma } => (escape(model), gamma.to_string()),
            other => (label(other), String::new()),
        };
        let _ = write!(text, "<tr><th scope=\"row\">{name}</th><td>{gamma}</td>");
        for (column, values, best) in &columns {
            let shown = column.format(values[index]);
            let _ = match best[index] {
                true => write!(text, "<td><strong>{shown}</strong></td>"),
                false => write!(text, "<td>{shown}</td>"),
            };
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table></div>\n"
}

/// Every metric against gamma.
fn plots(figures: &Figures, group: &Group) -> String {
    let models = models(figures);
    let mut plots = String::new();
    let mut has_truth = false;
    // The gain is the PSNR from another zero.
    for (index, column) in figures
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| !column.signed)
    {
        let mean = |row: &Row| figures.mean(row, group, index).mean;
        let series: Vec<Series> = models
            .iter()
            .map(|name| Series {
                name: (*name).to_owned(),
                points: figures
                    .rows
                    .iter()
                    .filter_map(|row| match &row.method {
                        Method::Model { model, gamma } if model == name => Some((*gamma, mean(row)?)),
                        _ => None,
                    })
                    .collect(),
            })
            .collect();
        let mut levels = Vec::new();
        for row in &figures.rows {
            let name = match row.method {
                Method::Input => "input",
                Method::Truth => "truth",
                Method::Model { .. } => continue,
            };
            if let Some(value) = mean(row) {
                has_truth |= name == "truth";
                levels.push(Level { name, value });
            }
        }
        plots += &plot::svg(column, &series, &levels);
    }
    if plots.is_empty() {
        return plots;
    }
    let mut legend = String::new();
    for (index, model) in models.iter().enumerate() {
        let _ = write!(legend, "<span>{}{}</span>", plot::key(index), escape(model));
    }
    legend += &level_key("input", "the input");
    if has_truth {
        legend += &level_key("truth", "the truth");
    }
    format!("<p class=\"legend\">{legend}</p>\n<div class=\"plots\">\n{plots}</div>\n")
}

fn level_key(class: &str, name: &str) -> String {
    format!(
        "<span><svg class=\"key\" viewBox=\"0 0 34 14\" aria-hidden=\"true\">\
         <line class=\"level {class}\" x1=\"2\" x2=\"32\" y1=\"7\" y2=\"7\"/></svg>{name}</span>"
    )
}

/// The frame of the pictures; the script fills it from the JSON.
fn pictures(figures: &Figures, gallery: &Gallery) -> String {
    let shown = gallery.exhibits.len();
    let count = match (shown, figures.images.len()) {
        (shown, all) if shown == all => String::new(),
        (shown, all) => format!(" <span>{shown} of {all} images</span>"),
    };
    // In a script element only "<" could end it.
    let data = pictures_json(figures, gallery)
        .to_string()
        .replace('<', "\\u003c");
    format!(
        "<section id=\"pictures\">\n<h2>Pictures</h2>{count}\n\
         <p class=\"note\">Crops at full resolution, where an image has most detail (JPEG, quality 90; the figures are those of \
         the whole image). Drag the line, or focus a picture and use the arrow keys.</p>\n\
         <noscript><p class=\"warning\">The pictures need JavaScript.</p></noscript>\n\
         <div id=\"all\" class=\"choice\"></div>\n<div id=\"exhibits\"></div>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n</section>\n"
    )
}

fn pictures_json(figures: &Figures, gallery: &Gallery) -> Value {
    let columns: Vec<Value> = figures
        .columns
        .iter()
        .map(|column| json!({ "name": column.name, "unit": column.unit }))
        .collect();
    let exhibits: Vec<Value> = gallery
        .exhibits
        .iter()
        .map(|exhibit| exhibit_json(figures, exhibit))
        .collect();
    json!({ "columns": columns, "exhibits": exhibits })
}

fn exhibit_json(figures: &Figures, exhibit: &Exhibit) -> Value {
    let versions: Vec<Value> = exhibit
        .versions
        .iter()
        .map(|version| {
            let row = figures.rows.iter().find(|row| row.method == version.method);
            let format = |(column, value): (&Column, &Option<f64>)| match value {
                None => Value::Null,
                value => column.format(*value).into(),
            };
            let values: Option<Vec<Value>> = row.map(|row| {
                figures
                    .columns
                    .iter()
                    .zip(&row.values[exhibit.image])
                    .map(format)
                    .collect()
            });
            json!({ "label": label(&version.method), "uri": version.uri, "figures": values })
        })
        .collect();
    json!({
        "name": figures.images[exhibit.image],
        "size": exhibit.size,
        "crop": [exhibit.crop.x, exhibit.crop.y, exhibit.crop.width, exhibit.crop.height],
        "overview": exhibit.overview,
        "versions": versions,
    })
}

fn models(figures: &Figures) -> Vec<&str> {
    let mut models: Vec<&str> = Vec::new();
    for row in &figures.rows {
        if let Method::Model { model, .. } = &row.method
            && !models.contains(&model.as_str())
        {
            models.push(model);
        }
    }
    models
}

fn label(method: &Method) -> String {
    match method {
        Method::Input => "input".to_owned(),
        Method::Truth => "truth".to_owned(),
        Method::Model { model, gamma } => format!("{model}, gamma {gamma}"),
    }
}
