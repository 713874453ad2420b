"""What the tests ask of the page: its rows, its words, and what must hold of any state of it."""

from common import Failure

# Text that is hard to read, and where it stands. The ground is the first ancestor that has one;
# what is disabled or not shown is left out.
CONTRAST = """(() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92
      : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const found = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest(
      ':disabled, .unseen, option, noscript')) continue;
    const style = getComputedStyle(node);
    const text = parse(node instanceof SVGElement ? style.fill : style.color);
    let ground = node;
    while (ground && parse(getComputedStyle(ground).backgroundColor)[3] === 0)
      ground = ground.parentElement;
    const back = parse(getComputedStyle(ground || document.body).backgroundColor);
    const [a, b] = [light(text), light(back)].sort((p, q) => q - p);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${walk.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return [...found];
})()"""
# Cells of a row that lie on each other, and what sticks out of its section.
OVERLAPS = """(() => {
  const found = new Set();
  const boxes = (nodes) => nodes.filter((n) => n.checkVisibility() && n.textContent.trim())
    .map((n) => [n, n.getBoundingClientRect()]);
  const shares = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1
    && b.top < a.bottom - 1;
  const clash = (list, name) => list.forEach(([a, p], i) => list.slice(i + 1).forEach(([b, q]) => {
    if (!a.contains(b) && shares(p, q)) found.add(`${name}: '${a.textContent}' on '${b.textContent}'`);
  }));
  for (const row of document.querySelectorAll('.row'))
    clash(boxes([...row.querySelectorAll(':scope > *, .badge, .c-acts > *, .c-rate > span')]), 'row');
  clash(boxes([...document.querySelectorAll('.bar > *, .bar button')]), 'header');
  clash(boxes([...document.querySelectorAll('#memory-chart text')]), 'chart');
  for (const section of document.querySelectorAll('section')) {
    const edge = section.getBoundingClientRect().right;
    for (const node of section.querySelectorAll('*'))
      if (node.checkVisibility() && !node.closest('.unseen, #lines, defs')
          && node.getBoundingClientRect().right > edge + 1) found.add(`sticks out: ${node.outerHTML.slice(0, 80)}`);
  }
  return [...found];
})()"""
ROW = "[...document.querySelectorAll('#rows > li')].find((n) => n.row.name === arguments[0])"


class Page:
    """The dashboard in a browser."""

    def __init__(self, browser, url):
        self.browser = browser
        self.url = url

    def open(self, feeds):
        """Loads it and waits for so many rows."""
        self.browser.open(self.url)
        self.browser.wait(f"{feeds} feeds are shown",
                          "document.querySelectorAll('#rows > li .badge span').length === "
                          "arguments[0] && knownSince !== null && memory !== null", feeds)

    def must(self, what, script, *args):
        """Fails where the expression is not true now."""
        if not self.browser.run(script, *args):
            raise Failure(f"not so: {what}")

    def wait(self, what, script, *args, limit_s=15):
        """Until the expression is true."""
        return self.browser.wait(what, script, *args, limit_s=limit_s)

    def wait_state(self, feed, state, limit_s=15):
        """Until the feed's badge says so; its tone as a word."""
        script = f"{ROW}?.querySelector('.badge').textContent === arguments[1]"
        self.wait(f"'{feed}' is shown as {state}", script, feed, state, limit_s=limit_s)
        return self.browser.run(f"{ROW}.querySelector('.badge').className", feed)

    def wait_sentence(self, words, limit_s=15):
        """Until the sentence at the top holds the words."""
        self.wait(f"the page says '{words}': it says '{self.text('#overall')}'",
                  "document.querySelector('#overall').textContent.includes(arguments[0])", words,
                  limit_s=limit_s)

    def wait_gap(self, feed, kind="t-gap", limit_s=15):
        """Until a gap of this kind is drawn for the feed, at least a pixel wide."""
        box = (f"{ROW}?.querySelector('.{kind}').getAttribute('d') && "
               f"{ROW}.querySelector('.{kind}').getBBox().width >= 0.99")
        self.wait(f"a gap of '{feed}' is drawn", box, feed, limit_s=limit_s)

    def text(self, selector):
        """What stands there."""
        return self.browser.run("document.querySelector(arguments[0])?.textContent", selector)

    def open_order(self, selector):
        """Clicks a button that asks first."""
        self.browser.click(selector)
        self.must("a dialog asks first", "document.querySelector('#ask').open")

    def order(self, selector):
        """Clicks a button, and says yes."""
        self.open_order(selector)
        self.browser.click("#ask-yes")
        self.wait(f"the order went through: '{self.text('#ask-error')}'",
                  "!document.querySelector('#ask').open")

    def button(self, label):
        """The selector of a feed's button."""
        return f"button[aria-label='{label}']"

    def check_layout(self, where):
        """No sideways scrolling, nothing on top of another, all text readable."""
        findings = []
        wide = self.browser.run("[document.documentElement.scrollWidth, innerWidth]")
        if wide[0] > wide[1]:
            findings.append(f"scrolls sideways: {wide[0]} of {wide[1]} px")
        findings += self.browser.run(OVERLAPS) + self.browser.run(CONTRAST)
        if findings:
            raise Failure("\n  ".join([f"layout, {where}:", *findings]))

    def check_console(self, where, expected=()):
        """The console said nothing but what was expected."""
        said = self.browser.errors(expected)
        if said:
            raise Failure("\n  ".join([f"console, {where}:", *said]))

    def fit_height(self, width, **look):
        """The window as high as the page, for a picture of all of it."""
        self.browser.look(width, **look)
        height = self.browser.run("document.documentElement.scrollHeight")
        self.browser.look(width, height, **look)
