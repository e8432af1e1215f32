"use strict";

/* Plays a recorded episode: its picture, the figures beside it and the cursor in its plots stand at the same frame. */
class Player {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(root.querySelector("script").textContent);
    this.picture = root.querySelector(".picture");
    this.slider = root.querySelector("input[type=range]");
    this.button = root.querySelector("[data-do=play]");
    this.plot = root.querySelector(".plot.seek");
    this.timer = null;
    this.slider.addEventListener("input", () => { this.pause(); this.show(Number(this.slider.value)); });
    this.button.addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    this.plot.addEventListener("click", (event) => { this.pause(); this.show(this.nearest(event.clientX)); });
    root.addEventListener("keydown", (event) => this.key(event));
    this.show(this.last);
  }

  get last() { return this.data.frames.length - 1; }

  show(index) {
    this.index = Math.min(Math.max(index, 0), this.last);
    this.picture.src = this.data.frames[this.index];
    this.slider.value = this.index;
    const row = this.data.rows[this.index];
    for (const field of this.root.querySelectorAll("[data-field]")) field.textContent = row[field.dataset.field];
    const { start, end } = this.plot.dataset;
    const share = this.data.times[this.index] / this.data.span;
    this.plot.querySelector(".cursor").style.left = `${100 * (Number(start) + share * (end - start))}%`;
  }

  nearest(x) {
    const box = this.plot.getBoundingClientRect();
    const { start, end } = this.plot.dataset;
    const time = (((x - box.left) / box.width - start) / (end - start)) * this.data.span;
    const far = this.data.times.map((at) => Math.abs(at - time));
    return far.indexOf(Math.min(...far));
  }

  play() {
    if (this.index === this.last) this.show(0);
    this.loaded ??= this.data.frames.map((source) => Object.assign(new Image(), { src: source }));
    this.timer = setInterval(() => {
      this.show(this.index + 1);
      if (this.index === this.last) this.pause();
    }, 250);
    this.button.textContent = "❚❚";
    this.button.setAttribute("aria-label", "pause");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "▶";
    this.button.setAttribute("aria-label", "play");
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.target === this.slider) return;
    event.preventDefault();
    this.pause();
    this.show(this.index + move);
  }
}

const players = [...document.querySelectorAll(".player")].map((root) => new Player(root));

for (const button of document.querySelectorAll("[data-do=play-all]")) {
  button.addEventListener("click", () => players.forEach((player) => { player.pause(); player.show(0); player.play(); }));
}

for (const select of document.querySelectorAll("form.pair select")) {
  select.addEventListener("change", () => select.form.submit());
}

/* A run that goes on: its page is read again, and replaced unless somebody watches a video in it. */
async function refresh() {
  const main = document.querySelector("main");
  const offline = document.querySelector(".offline");
  try {
    const response = await fetch(location.href);
    if (!response.ok) throw new Error(response.statusText);
    const page = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("main");
    offline.hidden = true;
    if ([...main.querySelectorAll("video")].some((video) => !video.paused)) return plan(main);
    main.replaceWith(page);
    plan(page);
  } catch {
    offline.hidden = false;
    plan(main);
  }
}

function plan(main) {
  if (main.dataset.refreshS) setTimeout(refresh, 1000 * Number(main.dataset.refreshS));
}

plan(document.querySelector("main"));
