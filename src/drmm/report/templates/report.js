"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Light and dark: as the system has it, until somebody chooses.
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("drmm-theme", value);
      return localStorage.getItem("drmm-theme");
    } catch {
      return value || null; // a page without storage still switches
    }
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = get("theme");
  if (remembered()) root.dataset.theme = remembered();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    remembered(root.dataset.theme);
  });

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // The table of contents follows.
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      const link = links.get(entry.target.id);
      link.setAttribute("aria-current", "true");
      const bar = link.closest("ul");
      bar.scrollLeft = link.offsetLeft - bar.offsetLeft - bar.clientWidth / 3;
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("section")) watcher.observe(section);

  const images = data.images;
  if (!images.length) return;

  const element = (name, text = "", kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const tile = (sheet, index, alt) => {
    const { name, grid } = data.sheets[sheet];
    const made = element("span", "", `tile ${name}`);
    const at = [index % grid[0], Math.floor(index / grid[0])];
    const percent = at.map((i, k) => (grid[k] > 1 ? (100 * i) / (grid[k] - 1) : 0));
    made.style.backgroundPosition = `${percent[0]}% ${percent[1]}%`;
    if (alt) {
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", alt);
    } else {
      made.setAttribute("aria-hidden", "true");
    }
    return made;
  };
  const described = ({ truth, predicted }) => {
    if (truth < 0) return `predicted ${data.predicted[predicted]}`;
    if (data.clusters) return `${data.true[truth]}, in ${data.predicted[predicted]}`;
    return truth === predicted ? data.true[truth] : `${data.true[truth]}, predicted ${data.predicted[predicted]}`;
  };
  const share = (p) => `${(100 * p).toFixed(1)}\u00a0%`;

  // One image in full.
  const dialog = get("details");
  let list = [], at = 0, opener = null;
  const pane = (sheet, index, caption) => {
    const figure = element("figure", "", "large");
    figure.append(tile(sheet, index, caption), element("figcaption", caption));
    return figure;
  };
  const show = () => {
    const image = images[list[at]], { sprite } = image;
    get("details-title").textContent = described(image);
    const panes = [pane("image", list[at], image.name)];
    if (sprite !== null) {
      const best = data.predicted[image.own];
      panes.push(pane("reconstruction", sprite, "reconstruction"));
      panes.push(pane("evidence", sprite, `evidence for ${best}`));
      if (data.sheets.contrast) {
        panes.push(pane("contrast", sprite, `for ${best}, against ${data.predicted[image.rival]}`));
      }
    }
    get("panes").replaceChildren(...panes);
    get("best").replaceChildren(...image.best.map(([c, p]) => {
      const line = element("li"), bar = element("i");
      bar.style.width = `${100 * p}%`;
      line.append(element("span", data.predicted[c]), bar, element("b", share(p)));
      return line;
    }));
    const gap = image.certified ? "Inference is certified exact."
      : image.gap === null ? "No bound is known." : `Inference is not certified: the bound is ${image.gap} above the score.`;
    get("about").textContent = `The reconstruction explains ${share(image.explained)} of the picture's energy. ${gap}`;
    get("before").disabled = at === 0;
    get("after").disabled = at === list.length - 1;
  };
  const step = (by) => {
    if (at + by < 0 || at + by >= list.length) return;
    at += by;
    show();
  };
  const open = (button) => {
    const group = [...button.closest("ul, tr").querySelectorAll(".open")];
    list = group.map((one) => Number(one.dataset.image));
    at = group.indexOf(button);
    opener = button;
    show();
    dialog.showModal();
  };
  get("close").addEventListener("click", () => dialog.close());
  get("before").addEventListener("click", () => step(-1));
  get("after").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => opener && opener.focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // The images of one cell of the confusion matrix.
  const panel = get("cell");
  const fill = (button) => {
    const [row, column] = button.dataset.cell.split(" ").map(Number);
    const mine = images.flatMap((image, i) => (image.truth === row && image.predicted === column ? [i] : []));
    for (const other of document.querySelectorAll("[data-cell]")) {
      other.setAttribute("aria-pressed", String(other.dataset.cell === button.dataset.cell));
    }
    const shown = mine.slice(0, 60), left = mine.length - shown.length;
    get("cell-title").textContent =
      `${data.true[row]}, ${data.clusters ? "in" : "predicted"} ${data.predicted[column]}` + (left ? ` (${shown.length} of ${mine.length} images)` : "");
    get("cell-images").replaceChildren(...shown.map((i) => {
      const item = element("li"), opened = element("button", "", "open");
      item.style.setProperty("--shown", `${data.sheets.image.shown[0]}px`);
      opened.type = "button";
      opened.dataset.image = i;
      opened.setAttribute("aria-haspopup", "dialog");
      opened.setAttribute("aria-label", `${described(images[i])}: ${images[i].name}`);
      opened.append(tile("image", i));
      item.append(opened, element("small", share(images[i].best[0][1])));
      if (data.files) item.append(element("small", images[i].name, "file"));
      return item;
    }));
    panel.hidden = false;
  };
  if (panel) {
    const first = document.querySelector(".chip[data-cell]") || document.querySelector(".cell");
    if (first) fill(first);
  }

  document.addEventListener("click", (event) => {
    const opened = event.target.closest(".open"), cell = event.target.closest("[data-cell]");
    if (opened) open(opened);
    if (cell && panel) fill(cell);
  });

  // Arrows walk through the matrix, over empty cells too.
  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest(".cell");
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!cell || !move) return;
    event.preventDefault();
    let [row, column] = cell.dataset.cell.split(" ").map(Number);
    for (let i = 0; i < Math.max(data.true.length, data.predicted.length); i++) {
      row += move[0];
      column += move[1];
      const next = document.querySelector(`.cell[data-cell="${row} ${column}"]`);
      if (next) return next.focus();
    }
  });
})();
