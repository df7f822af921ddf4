// Shows the rewrite and the report on the node, below its widgets.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

function show(node, name, text) {
  let widget = node.widgets?.find((candidate) => candidate.name === name);
  if (!widget) {
    widget = ComfyWidgets.STRING(node, name, ["STRING", { multiline: true }], app).widget;
    widget.inputEl.readOnly = true;
    widget.inputEl.placeholder = name;
    widget.serialize = false; // not an input of the node
    widget.serializeValue = async () => undefined;
  }
  widget.value = text;
}

app.registerExtension({
  name: "pav.RefinePrompt",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== "PavRefinePrompt") return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (message) {
      onExecuted?.apply(this, arguments);
      show(this, "rewrite", message.refined.join("\n"));
      show(this, "what became of it", message.report.join("\n"));
      this.onResize?.(this.size);
    };
  },
});
