// What the guide uses of Foundation on Apple's platforms, and Foundation on Linux lacks or cannot do.
import Foundation

func autoreleasepool<T>(_ body: () throws -> T) rethrows -> T { try body() }

extension FileManager {
    /// Foundation on Linux refuses to replace a directory.
    func replaceItemAt(_ original: URL, withItemAt new: URL) throws -> URL? {
        let old = original.appendingPathExtension("old")
        try moveItem(at: original, to: old)
        try moveItem(at: new, to: original)
        try removeItem(at: old)
        return original
    }
}
