"use strict";
(() => {
  const holder = document.getElementById("data");
  if (!holder) return;
  const { columns, exhibits } = JSON.parse(holder.textContent);

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const chooser = (text, labels, chosen, changed) => {
    const select = make("select", {}, ...labels.map((label) => new Option(label, label)));
    select.value = chosen;
    select.addEventListener("change", () => changed(select.value));
    return [make("label", {}, text, select), select];
  };

  // What a model gives at its default gamma, or else at the last one measured.
  const labelsOf = (exhibit) => exhibit.versions.map((version) => version.label);
  const first = labelsOf(exhibits[0]);
  const right = first.find((label) => label.endsWith(", gamma 0.7")) ?? first.at(-1);
  const chosen = { left: "input", right };
  const views = [];
  let zoom = 1;

  const show = (exhibit) => {
    const [x, y, width, height] = exhibit.crop;
    const images = { left: make("img", { className: "left" }), right: make("img", { className: "right" }) };
    const tags = { left: make("em", { className: "left" }), right: make("em", { className: "right" }) };
    const slider = make("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
    slider.setAttribute("aria-label", `${exhibit.name}: where left ends and right begins, in percent`);
    const pair = make("div", { className: "pair" }, images.left, images.right, make("i"), tags.left, tags.right, slider);
    const move = () => pair.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", move);
    move();
    pair.style.aspectRatio = `${width} / ${height}`;

    const list = make("dl");
    const current = { ...chosen };
    const version = (side) => exhibit.versions.find(({ label }) => label === current[side]);
    const update = () => {
      for (const side of ["left", "right"]) {
        images[side].src = version(side).uri;
        images[side].alt = `${exhibit.name}, ${current[side]}`;
        tags[side].textContent = current[side];
      }
      const [before, after] = ["left", "right"].map((side) => version(side).figures ?? []);
      list.replaceChildren(
        ...columns.flatMap(({ name, unit }, index) => {
          const values = [before[index], after[index]].filter((value) => value != null);
          if (values.length === 0) return [];
          const text = `${values.join(" → ")} ${unit}`;
          return make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: text }));
        }),
      );
    };
    const selects = {};
    const choosers = ["left", "right"].map((side) => {
      const text = side === "left" ? "Left" : "Right";
      const [label, select] = chooser(text, labelsOf(exhibit), current[side], (value) => {
        current[side] = value;
        update();
      });
      selects[side] = select;
      return label;
    });
    update();

    const [wholeWidth, wholeHeight] = exhibit.size;
    const place = exhibit.overview ? `${width}×${height} of ${wholeWidth}×${wholeHeight}, from ${x}, ${y}` : `${width}×${height}`;
    const title = make("div", {}, make("b", { textContent: exhibit.name }), make("span", { textContent: place }));
    const caption = make("figcaption", {}, title);
    if (exhibit.overview) {
      const box = make("i");
      const percent = (part, whole) => `${(100 * part) / whole}%`;
      Object.assign(box.style, {
        left: percent(x, wholeWidth),
        top: percent(y, wholeHeight),
        width: percent(width, wholeWidth),
        height: percent(height, wholeHeight),
      });
      const whole = make("img", { src: exhibit.overview, alt: "where the crop is in the whole image" });
      caption.append(make("div", { className: "overview" }, whole, box));
    }
    views.push({
      size: () => {
        figure.style.width = `${zoom * width}px`;
      },
      choose: (side, value) => {
        current[side] = value;
        selects[side].value = value;
        update();
      },
    });
    const figure = make("figure", {}, caption, pair, make("div", { className: "choice" }, ...choosers), list);
    views.at(-1).size();
    return figure;
  };

  const area = document.getElementById("exhibits");
  area.append(...exhibits.map(show));
  const everywhere = ["left", "right"].map((side) => {
    const [label] = chooser(`All ${side}`, first, chosen[side], (value) => views.forEach((view) => view.choose(side, value)));
    return label;
  });
  const twice = make("input", { type: "checkbox" });
  twice.addEventListener("change", () => {
    zoom = twice.checked ? 2 : 1;
    area.classList.toggle("enlarged", twice.checked);
    views.forEach((view) => view.size());
  });
  document.getElementById("all").append(...everywhere, make("label", {}, twice, "twice as large"));
})();
