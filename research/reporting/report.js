// Sorts tables, copies commands, shows values under the pointer, hides curves, follows sounds.
// A page is complete without it.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function makeSortable(table) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const first = header.classList.contains("number") ? "descending" : "ascending";
        const other = header.ariaSort === "ascending" ? "descending" : "ascending";
        const order = header.ariaSort ? other : first;
        headers.forEach(each => each.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", order);
        sort(table.tBodies[0], column, order === "descending" ? -1 : 1);
      });
    });
  }

  function sort(body, column, sign) {
    const compare = (a, b) => a.dataset.value !== undefined && b.dataset.value !== undefined
      ? a.dataset.value - b.dataset.value
      : a.textContent.localeCompare(b.textContent, undefined, {numeric: true});
    body.append(...[...body.rows].sort((a, b) => sign * compare(a.cells[column], b.cells[column])));
  }

  function addCopy(command) {
    const button = document.createElement("button");
    button.textContent = "copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command.querySelector("pre").textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
    command.append(button);
  }

  // Curves of a key are hidden in all charts of the legend's section.
  function makeLegend(legend) {
    for (const entry of legend.children) {
      entry.tabIndex = 0;
      entry.setAttribute("role", "button");
      entry.setAttribute("aria-pressed", "true");
      const toggle = () => {
        const off = entry.classList.toggle("off");
        entry.setAttribute("aria-pressed", String(!off));
        for (const curve of legend.parentElement.querySelectorAll(".plot .series")) {
          if (curve.dataset.key === entry.dataset.key) curve.classList.toggle("hidden", off);
        }
      };
      entry.addEventListener("click", toggle);
      entry.addEventListener("keydown", event => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();  // the space bar scrolls
        toggle();
      });
    }
  }

  function showValues(plot) {
    const svg = plot.querySelector("svg");
    const curves = [...svg.querySelectorAll(".series")].map(group => ({
      group,
      name: group.dataset.name,
      x: group.dataset.x.split(" "),
      y: group.dataset.y.split(" "),
      points: [...group.querySelector("polyline").points],
    }));
    const line = document.createElementNS(SVG, "line");
    line.setAttribute("class", "pointer hidden");
    line.setAttribute("y1", 24);
    line.setAttribute("y2", svg.viewBox.baseVal.height - 34);
    svg.append(line);
    const box = document.createElement("div");
    box.className = "values hidden";
    plot.append(box);

    const hide = () => [line, box].forEach(each => each.classList.add("hidden"));
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", event => {
      const frame = svg.getBoundingClientRect();
      const at = (event.clientX - frame.left) / frame.width * svg.viewBox.baseVal.width;
      const shown = curves.filter(curve => !curve.group.classList.contains("hidden"));
      const rows = shown.map(curve => ({curve, i: nearest(curve.points, at)}));
      if (!rows.length) return hide();
      const closest = rows.reduce((a, b) =>
        Math.abs(a.curve.points[a.i].x - at) <= Math.abs(b.curve.points[b.i].x - at) ? a : b);
      const x = closest.curve.points[closest.i].x;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      const title = document.createElement("b");
      title.textContent = `${plot.dataset.x} ${closest.curve.x[closest.i]}`;
      box.replaceChildren(title, ...rows.map(({curve, i}) => {
        const row = document.createElement("div");
        const swatch = document.createElement("span");
        const color = [...curve.group.classList].find(name => /^c\d$/.test(name));
        swatch.className = `swatch ${color}`;
        row.append(swatch, `${curve.name} ${curve.y[i]}`);
        return row;
      }));
      [line, box].forEach(each => each.classList.remove("hidden"));
      const left = x / svg.viewBox.baseVal.width * frame.width;
      const room = left + 14 + box.offsetWidth < frame.width;
      box.style.left = `${room ? left + 10 : Math.max(0, left - 10 - box.offsetWidth)}px`;
    });
  }

  function nearest(points, x) {
    let best = 0;
    points.forEach((point, i) => {
      if (Math.abs(point.x - x) < Math.abs(points[best].x - x)) best = i;
    });
    return best;
  }

  // A line in the spectrogram follows the sound; a click in it sets the position.
  function follow(audio) {
    const svg = audio.parentElement.querySelector("svg[data-seconds]");
    const {left, right, seconds} = svg.dataset;
    const [from, to] = [Number(left), Number(right)];
    const line = svg.querySelector(".playhead");
    const draw = () => {
      line.classList.remove("hidden");
      const x = from + (to - from) * Math.min(audio.currentTime / seconds, 1);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      if (!audio.paused) requestAnimationFrame(draw);
    };
    for (const event of ["play", "seeked", "pause"]) audio.addEventListener(event, draw);
    svg.addEventListener("click", event => {
      const frame = svg.getBoundingClientRect();
      const x = (event.clientX - frame.left) / frame.width * svg.viewBox.baseVal.width;
      audio.currentTime = Math.max(0, (x - from) / (to - from) * seconds);
      audio.play();
    });
  }

  const enhance = (selector, action) => {
    for (const each of document.querySelectorAll(`main ${selector}:not([data-ready])`)) {
      each.dataset.ready = "";
      action(each);
    }
  };
  enhance("table:has(thead):not(.matrix)", makeSortable);
  if (navigator.clipboard) enhance(".command", addCopy);  // not over http
  enhance(".legend", makeLegend);
  enhance(".plot", showValues);
  enhance("audio", follow);
})();
