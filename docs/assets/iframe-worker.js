/* Search runs in a worker, and browsers have none for pages read from files: a hidden frame takes its place. */
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inner = this.frame.contentWindow
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => load(inner, next)), Promise.resolve())
      this.ready = new Promise(done => this.frame.addEventListener("load", done))
      inner.document.open()
      inner.document.write(`<script src="${new URL(url, location)}"><\/script>`)
      inner.document.close()
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }

  const load = (inner, url) => new Promise((done, fail) => {
    const script = inner.document.createElement("script")
    script.onload = done
    script.onerror = fail
    script.src = url
    inner.document.body.append(script)
  })
}
