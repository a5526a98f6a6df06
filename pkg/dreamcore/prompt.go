package dreamcore

// PromptHeader names the prompt endpoint that a request to a model in this
// process is made for. It is never sent over the network.
const PromptHeader = "X-Dreamcore-Prompt"
