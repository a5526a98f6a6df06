package dreamcore

// PromptHeader is the header that names the prompt endpoint in a request to an
// in-process model. It is never sent over the network.
const PromptHeader = "X-Dreamcore-Prompt"
