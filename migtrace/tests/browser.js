// What the test asks a page about. Everything is returned as JSON; nothing is changed.
({
  // Every element that reaches beyond the width of the page, or whose text does not fit into it.
  overflowing() {
    const width = document.documentElement.clientWidth;
    const found = [];
    if (document.documentElement.scrollWidth > width) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
    for (const element of document.body.querySelectorAll("*")) {
      const style = getComputedStyle(element);
      if (element.closest(".patterns") || style.display === "none" || !element.getClientRects().length) continue;
      // A table scrolls by itself.
      const scrolls = element.parentElement.closest(".scroll");
      const box = element.getBoundingClientRect();
      if (!scrolls && (box.right > width + 1 || box.left < -1)) found.push(`${name(element)} from ${box.left} to ${box.right}`);
      const isBox = !["inline", "contents"].includes(style.display) && !element.closest("svg");
      if (isBox && style.overflowX === "visible" && element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0
          && !scrolls && !element.querySelector(".scroll, .tip") && !element.matches(".ticks, .track, .hit")) {
        found.push(`${name(element)} holds ${element.scrollWidth} in ${element.clientWidth}`);
      }
    }
    return found;
    function name(element) { return `<${element.tagName} class="${element.getAttribute("class")}"> ${element.textContent.slice(0, 60)}`; }
  },

  // Texts of a lane or an axis that cover each other.
  overlapping() {
    const found = [];
    for (const group of document.querySelectorAll(".ticks, .label")) {
      const texts = [...group.children].filter(e => e.getClientRects().length && e.textContent.trim());
      texts.forEach((one, index) => texts.slice(index + 1).forEach(other => {
        const [a, b] = [one, other].map(e => e.getBoundingClientRect());
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 4) found.push(`"${one.textContent}" and "${other.textContent}"`);
      }));
    }
    return found;
  },

  // Every text that is too faint against what lies behind it: the ratio of WCAG 2.
  faint() {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = color => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
    const luminance = color => {
      const [r, g, b] = color.slice(0, 3).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => {
      const [x, y] = [luminance(a), luminance(b)].sort((x, y) => y - x);
      return (x + 0.05) / (y + 0.05);
    };
    // Shapes of the drawing that lie behind a place.
    const shapes = (element, x, y) => {
      const track = element.closest(".track");
      if (!track || element.closest(".tip")) return [];
      return [...track.querySelectorAll("svg rect")].filter(shape => {
        const box = shape.getBoundingClientRect();
        return box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
      }).map(shape => {
        const style = getComputedStyle(shape);
        const fill = style.fill.startsWith("url") ? getComputedStyle(document.querySelector(".hatch")).stroke : style.fill;
        const color = rgba(fill);
        return [color[0], color[1], color[2], color[3] * style.fillOpacity];
      });
    };
    const backgrounds = element => {
      const layers = [];
      for (let e = element; e; e = e.parentElement) {
        const color = rgba(getComputedStyle(e).backgroundColor);
        if (color[3] > 0) layers.push(color);
        if (color[3] === 1) return layers;
        if (e.matches(".hit")) {
          const box = element.getBoundingClientRect();
          layers.push(...shapes(e, (box.left + box.right) / 2, (box.top + box.bottom) / 2).reverse());
        }
      }
      return layers;
    };
    const found = [];
    let seen = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || element.closest("svg, style")) continue;
      if (!element.closest(".tip") && !element.getClientRects().length) continue;
      const page = rgba(getComputedStyle(document.body).backgroundColor);
      const behind = backgrounds(element).reverse().reduce((below, top) => over(top, below), page);
      const text = over(rgba(getComputedStyle(element).color), behind);
      seen += 1;
      if (ratio(text, behind) < 4.5) {
        found.push(`${ratio(text, behind).toFixed(2)}: "${walker.currentNode.data.trim().slice(0, 40)}" ${text} on ${behind}`);
      }
    }
    return { seen, found: [...new Set(found)] };
  },

  // What can be pointed at: its values, its tip, and where it begins and ends as shares of its axis.
  items() {
    return [...document.querySelectorAll(".hit")].map(hit => {
      const lanes = hit.closest(".lanes").dataset;
      const [box, track] = [hit, hit.parentElement].map(e => e.getBoundingClientRect());
      return {
        of: hit.dataset.of, values: hit.dataset.values, tip: hit.getAttribute("aria-label"),
        shown: hit.nextElementSibling.textContent,
        from: +hit.dataset.from, to: +hit.dataset.to, axis: [+lanes.from, +lanes.to],
        place: [box.left, box.right].map(x => (x - track.left) / track.width),
        drawn: [...hit.parentElement.querySelectorAll("svg rect.bar, svg rect.possible")].map(shape => {
          const box = shape.getBoundingClientRect();
          return { kind: shape.classList[0], place: [box.left, box.right].map(x => (x - track.left) / track.width) };
        }),
        alone: hit.parentElement.querySelectorAll(".hit").length === 1,
      };
    });
  },

  // The lines of steps: how high each step is, in pixels above the ground, and what is written beside them.
  curves() {
    return [...document.querySelectorAll(".track")].filter(track => track.querySelector("path.line")).map(track => {
      const height = track.querySelector("svg").viewBox.baseVal.height;
      const path = track.querySelector("path.line").getAttribute("d").split(/[ML]/).filter(point => point);
      const points = path.map(point => point.split(" ").map(Number));
      const label = track.previousElementSibling;
      return {
        name: label.querySelector(".name").textContent, unit: label.querySelector(".value").textContent,
        ticks: [...label.querySelectorAll(".upright")].map(tick => [+tick.textContent, height * (1 - parseFloat(tick.style.top) / 100)]),
        steps: [...track.querySelectorAll(".hit")].map((hit, index) => ({
          of: hit.dataset.of, values: hit.dataset.values, height: height - points[2 * index][1],
        })),
      };
    });
  },

  // The cells that repeat a number of the record.
  cells() {
    return [...document.querySelectorAll("td[data-of]")].map(cell => ({ of: cell.dataset.of, text: cell.textContent }));
  },

  // Charts without what a screen reader needs.
  silent() {
    const found = [];
    for (const figure of document.querySelectorAll("figure")) {
      if (figure.getAttribute("role") !== "group" || !figure.getAttribute("aria-label")) found.push("a figure without a name");
      for (const svg of figure.querySelectorAll(".track svg")) {
        if (svg.getAttribute("role") !== "img" || !svg.getAttribute("aria-label") || !svg.querySelector("desc")?.textContent) {
          found.push(`a drawing without a name: ${svg.outerHTML.slice(0, 80)}`);
        }
      }
    }
    for (const hit of document.querySelectorAll(".hit")) {
      if (!hit.getAttribute("aria-label")) found.push("something to point at without a name");
    }
    return found;
  },

  // Whether a tip is there only while its item has the focus, and lies within the page.
  tips() {
    const found = [];
    const width = document.documentElement.clientWidth;
    for (const hit of document.querySelectorAll(".hit")) {
      const tip = hit.nextElementSibling;
      if (getComputedStyle(tip).display !== "none") found.push(`shown by itself: ${tip.textContent}`);
      hit.focus({ preventScroll: true });
      const box = tip.getBoundingClientRect();
      if (getComputedStyle(tip).display === "none") found.push(`not shown: ${tip.textContent}`);
      if (box.left < 0 || box.right > width) found.push(`from ${box.left} to ${box.right}: ${tip.textContent}`);
      hit.blur();
    }
    return found;
  },

  // Tables that are wider than the place that they have, where nothing scrolls.
  cut() {
    return [...document.querySelectorAll(".scroll table")].filter(table => {
      return table.getBoundingClientRect().width > table.parentElement.getBoundingClientRect().width + 1;
    }).map(table => table.textContent.slice(0, 80));
  },

  // What is drawn in a chart and not in its legend, and the other way round. Charts beside each other share one legend.
  unexplained() {
    const found = [];
    for (const chart of document.querySelectorAll(".chart")) {
      const shared = chart.closest(".multiples");
      const legend = chart.querySelector(".legend") ?? shared?.nextElementSibling;
      const drawn = signs([...chart.querySelectorAll(".track svg")]);
      const all = shared ? signs([...shared.querySelectorAll(".track svg")]) : drawn;
      const explained = signs(legend?.matches(".legend") ? [...legend.querySelectorAll(".sign")] : []);
      const title = chart.getAttribute("aria-label").slice(0, 40);
      drawn.difference(explained).forEach(sign => found.push(`${title}: ${sign} is drawn and not explained`));
      explained.difference(all).forEach(sign => {
        // The best value of a short bar is not marked.
        if (sign !== "value") found.push(`${title}: ${sign} is explained and not drawn`);
      });
    }
    return found;
    function signs(drawings) {
      const shapes = drawings.flatMap(svg => [...svg.querySelectorAll("rect, path")]);
      return new Set(shapes.map(sign).filter(sign => sign));
    }
    function sign(shape) {
      const classes = [...shape.classList];
      if (classes.includes("stacked")) {
        const stripes = shape.nextElementSibling?.classList[0];
        return [classes.at(-1), ["rising", "falling"].includes(stripes) ? stripes : "plain"].join(" ");
      }
      if (classes[0] === "possible" && shape.nextElementSibling?.classList[0] === "hatched") return "";
      return ["hatched", "possible", "value", "error"].find(kind => kind === classes[0]);
    }
  },

  // Columns of a chart's table of which some cells stand left and others right.
  misaligned() {
    const found = [];
    for (const table of document.querySelectorAll(".chart table")) {
      const columns = new Map();
      for (const row of table.querySelectorAll("tbody tr")) {
        [...row.cells].forEach((cell, column) => {
          const sides = columns.get(column) ?? columns.set(column, new Set()).get(column);
          if (cell.textContent.trim()) sides.add(getComputedStyle(cell).textAlign);
        });
      }
      columns.forEach((sides, column) => {
        const heading = table.tHead.rows[0].cells[column];
        sides.add(getComputedStyle(heading).textAlign);
        if (sides.size > 1) found.push(`${heading.textContent}: ${[...sides]}`);
      });
    }
    return found;
  },

  // On paper, the tables of the charts are open.
  closed() {
    return [...document.querySelectorAll("details table")].filter(table => {
      return !table.checkVisibility() || table.getBoundingClientRect().height < 10;
    }).length;
  },
})
